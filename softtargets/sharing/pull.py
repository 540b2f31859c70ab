"""Pull a store from the Hub: resumed where it stopped, checked, and never to be taken for whole.

Files arrive in `.pull` within the directory, where the Hub's client continues what broke off. Each
is checked against the manifest and only then moved to its place; the manifest is moved last, so
that a directory with one is a whole store.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi

from softtargets.errors import CorruptionError, IdentityError, StoreError
from softtargets.sharing.files import file_hashes
from softtargets.sharing.repository import Repository
from softtargets.store import Store
from softtargets.store.card import CARD_NAME
from softtargets.store.files import (
    hash_file,
    hold_lock,
    make_directory,
    sync_directory,
    write_file,
)
from softtargets.store.manifest import MANIFEST_NAME, Manifest, parse_manifest, read_manifest
from softtargets.store.store import PULL_NAME

_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PullResult:
    """A whole store, and how much of it this call fetched."""

    store: Store
    commit: str
    """Of the repository."""
    num_files: int
    """That were fetched, of those that the manifest has a checksum of."""
    num_bytes: int
    """Of these files."""


def pull(
    repository: str,
    directory: str | os.PathLike[str],
    *,
    revision: str | None = None,
    api: HfApi | None = None,
    on_file: Callable[[int, int], None] | None = None,
) -> PullResult:
    """Pull a store from a dataset repository, or go on with it, or find it whole.

    Every file of the directory is checked; what is missing or damaged is fetched. Files of the
    repository that are not the store's are left there.

    Args:
        repository: org/name or org/name@revision.
        directory: of the store: new, empty, or one that was pulled to before.
        revision: branch, tag or commit; main by default.
        api: client with an endpoint and token that the environment doesn't say.
        on_file: called after each file with (files checked, files in all).

    Raises:
        InputError: the name is none.
        StoreError: the Hub cannot be reached, holds no store there, or the directory is taken.
        IdentityError: the directory holds another store.
        CorruptionError: what arrived is not what was committed; the message names the file.
        FormatError: the manifest is of an unknown version or malformed.
        BusyError: another process pulls to the directory.
    """
    there, root = Repository.parse(repository, revision, api), Path(directory)
    commit = there.commit()
    content = there.read(commit, MANIFEST_NAME)
    if content is None:
        raise StoreError(
            there.url,
            expected=f"a store, which has a {MANIFEST_NAME}",
            found="a repository without one",
            next_step="Check name and revision; a push that was interrupted is continued by the "
            "same 'softtargets push'.",
        )
    manifest = parse_manifest(content, f"{there.url}/{MANIFEST_NAME}")
    _check_directory(root, content, manifest)
    staging = root / PULL_NAME
    make_directory(staging)
    with hold_lock(staging / "lock"):
        write_file(staging / MANIFEST_NAME, content)
        fetched = _fetch_files(there, commit, root, manifest, on_file)
        if not (root / CARD_NAME).exists():
            card = there.read(commit, CARD_NAME)
            if card is not None:
                write_file(root / CARD_NAME, card)
        if not (root / MANIFEST_NAME).exists():
            write_file(root / MANIFEST_NAME, content)
        shutil.rmtree(staging)
    return PullResult(
        store=Store.open(root),
        commit=commit,
        num_files=len(fetched),
        num_bytes=sum(fetched),
    )


def _check_directory(root: Path, content: bytes, manifest: Manifest) -> None:
    """Check that a directory is new or empty, or holds this store, whole or not."""
    if root.exists() and not root.is_dir():
        raise StoreError(
            str(root),
            expected="a directory, or nothing yet",
            found="a file",
            next_step="Choose another directory.",
        )
    finished, begun = root / MANIFEST_NAME, root / PULL_NAME / MANIFEST_NAME
    if finished.is_file():
        # Its files would have to be exchanged one by one, under a manifest that is not theirs.
        found = read_manifest(finished).fingerprint
        if finished.read_bytes() != content:
            in_other_files = ", in other files" if found == manifest.fingerprint else ""
            raise _other_store(finished, manifest, found + in_other_files)
    elif begun.is_file():
        found = read_manifest(begun).fingerprint
        if found != manifest.fingerprint:
            raise _other_store(begun, manifest, found)
    elif root.is_dir() and not (root / PULL_NAME).is_dir():
        others = sorted(one.name for one in root.iterdir())
        if others:
            raise StoreError(
                str(root),
                expected="an empty directory, or one that was pulled to",
                found=f"{len(others)} other entries, among them '{others[0]}'",
                next_step="Choose another directory; nothing in this one was touched.",
            )


def _other_store(path: Path, manifest: Manifest, found: str) -> IdentityError:
    return IdentityError(
        f"{path}, fingerprint",
        expected=manifest.fingerprint,
        found=found,
        next_step="Pull to another directory; nothing in this one was touched.",
    )


def _fetch_files(
    there: Repository,
    commit: str,
    root: Path,
    manifest: Manifest,
    on_file: Callable[[int, int], None] | None,
) -> list[int]:
    """Fetch what is not there, several files at a time; return the sizes of what was fetched."""
    hashes = file_hashes(manifest)
    fetched = []
    with ThreadPoolExecutor(_THREADS) as executor:
        futures = [
            executor.submit(_fetch_file, there, commit, root, path, sha256)
            for path, sha256 in hashes.items()
        ]
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                size = future.result()
                if size is not None:
                    fetched.append(size)
                if on_file is not None:
                    on_file(number, len(futures))
        finally:
            # After an error, what was not begun is not fetched.
            executor.shutdown(wait=False, cancel_futures=True)
    sync_directory(root / "shards")
    return fetched


def _fetch_file(there: Repository, commit: str, root: Path, path: str, sha256: str) -> int | None:
    """Fetch and check a file, then move it to its place; return its size, or None if it is there.

    Raises:
        CorruptionError: it is missing, or another.
        StoreError: the Hub cannot be reached, or the file cannot be written.
    """
    target = root / path
    if target.is_file() and not target.is_symlink() and hash_file(target) == sha256:
        return None
    arrived = there.download(commit, path, root / PULL_NAME / "hub")
    found = "no file" if arrived is None else hash_file(arrived)
    if arrived is None or found != sha256:
        if arrived is not None:
            # The client would take it for what it is asked for again.
            arrived.unlink()
        raise CorruptionError(
            f"{there.url}/{path}",
            expected=f"SHA-256 {sha256}",
            found=found,
            next_step="Pull again. If it stays so, the store is damaged on the Hub: it is to be "
            "pushed again.",
        )
    make_directory(target.parent)
    with open(arrived, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        os.fsync(file.fileno())
    arrived.replace(target)
    return size
