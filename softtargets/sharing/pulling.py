"""Pull a store from the Hub: resumed where it stopped, checked, and never to be taken for whole.

Files arrive in `.pull` within the directory, where the Hub's client continues what broke off. Each
is checked against the manifest and only then moved to its place; the manifest is moved last, so
that a directory with one is a whole store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi

from softtargets.errors import CorruptionError, IdentityError, StoreError
from softtargets.places.directory import Directory
from softtargets.places.leftovers import Leftovers
from softtargets.places.local_files import check_root
from softtargets.places.place import LockGoneError
from softtargets.places.tree import TEMPORARY
from softtargets.sharing.repository import Repository
from softtargets.sharing.shared_files import file_hashes
from softtargets.store import Store
from softtargets.store.card import CARD_NAME
from softtargets.store.manifest import MANIFEST_NAME, Manifest, parse_identity, parse_manifest
from softtargets.store.opening import PULL_NAME

_LOCK = f"{PULL_NAME}/lock"
_MARK = f"{PULL_NAME}/{MANIFEST_NAME}"
"""Says whose the directory is; written before any other file."""
_CLIENT = f"{PULL_NAME}/hub"
_CLIENT_OWN = f"{_CLIENT}/.cache/huggingface"
_CLIENT_DIRECTORIES = (
    f"{_CLIENT_OWN}/download/shards",
    f"{_CLIENT_OWN}/download",
    _CLIENT_OWN,
    f"{_CLIENT}/.cache",
    f"{_CLIENT}/shards",
    _CLIENT,
)
"""Where the Hub's client works, inner ones first."""

_STAGED = re.compile(
    rf"{re.escape(_MARK)}({TEMPORARY})?|{re.escape(_LOCK)}"
    rf"|{re.escape(_CLIENT)}/((shards/)?[\w-]+\.parquet|\.cache/huggingface/"
    r"(\.gitignore|CACHEDIR\.TAG|download/(shards/)?[^/]+\.(metadata|lock|incomplete)))"
    rf"|({'|'.join(map(re.escape, (*_CLIENT_DIRECTORIES, PULL_NAME)))})/"
)
"""What a pull makes and removes."""
_BEFORE_MARK = re.compile(
    rf"{re.escape(_LOCK)}|{re.escape(_MARK)}{TEMPORARY}|{re.escape(PULL_NAME)}/"
)
"""What a pull that died before its mark was written can have left."""
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

    @classmethod
    def of(cls, tree: Directory, commit: str, sizes: list[int]) -> PullResult:
        """Open the store, and count files of these sizes."""
        store = Store.open(tree.root)
        return cls(store=store, commit=commit, num_files=len(sizes), num_bytes=sum(sizes))


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
        StoreError: the Hub cannot be reached, holds no store there, or the directory is taken.
        BusyError or IdentityError: another process pulls to it, or it holds another store.
        CorruptionError or FormatError: what arrived is not what was committed, or unknown.
    """
    there, tree = Repository.parse(repository, revision, api), Directory(Path(directory))
    commit = there.commit()
    content, manifest = _read_manifest(there, commit)
    fetched = None
    while fetched is None:
        _check_directory(tree, content, manifest)
        tree.make_directory("")
        tree.make_directory(PULL_NAME)
        # Else another pull ended meanwhile, and removed the directory of the lock.
        with suppress(LockGoneError), tree.lock(_LOCK):
            fetched = _pull_alone(there, commit, tree, content, manifest, on_file)
    return PullResult.of(tree, commit, fetched)


def _read_manifest(there: Repository, commit: str) -> tuple[bytes, Manifest]:
    content = there.read(commit, MANIFEST_NAME)
    if content is None:
        raise StoreError(
            there.url,
            expected=f"a store, which has a {MANIFEST_NAME}",
            found="a repository without one",
            next_step="Check name and revision; a push that was interrupted is continued by the "
            "same 'softtargets push'.",
        )
    where = f"{there.url}/{MANIFEST_NAME}"
    return content, parse_manifest(content, where, lambda table: there.read(commit, table.path))


def _pull_alone(
    there: Repository,
    commit: str,
    tree: Directory,
    content: bytes,
    manifest: Manifest,
    on_file: Callable[[int, int], None] | None,
) -> list[int]:
    """Pull what is not there, the manifest last; return the sizes of what was fetched."""
    tree.put(_MARK, content)
    for directory in (*_CLIENT_DIRECTORIES, "shards"):
        tree.make_directory(directory)
    fetched = _fetch_files(there, commit, tree, manifest, on_file)
    if tree.size(CARD_NAME) is None:
        card = there.read(commit, CARD_NAME)
        if card is not None:
            tree.put(CARD_NAME, card)
    if tree.size(MANIFEST_NAME) is None:
        tree.put(MANIFEST_NAME, content)
    staged = Leftovers(place=tree, directories=(*_CLIENT_DIRECTORIES, PULL_NAME))
    staged.remove_and_warn(_STAGED, last=(_LOCK, _MARK, f"{PULL_NAME}/"))
    return fetched


def _check_directory(tree: Directory, content: bytes, manifest: Manifest) -> None:
    """Check that a directory is new or empty, or holds this store, whole or not."""
    check_root(tree.root)
    finished, begun = tree.get(MANIFEST_NAME), tree.get(_MARK)
    if finished is not None:
        # Its files would have to be exchanged one by one, under a manifest that is not theirs.
        where = tree.where(MANIFEST_NAME)
        _, found = parse_identity(finished, where)
        if finished != content:
            in_other_files = ", in other files" if found == manifest.fingerprint else ""
            raise _other_store(where, manifest, found + in_other_files)
    elif begun is not None:
        _, found = parse_identity(begun, tree.where(_MARK))
        if found != manifest.fingerprint:
            raise _other_store(tree.where(_MARK), manifest, found)
    else:
        found_here = Leftovers(place=tree, directories=(PULL_NAME, ""))
        others = found_here.others(_BEFORE_MARK)
        # Another pull may have ended since the manifest was looked for.
        if others and tree.size(MANIFEST_NAME) is None:
            raise StoreError(
                str(tree.root),
                expected="an empty directory, or one that was pulled to",
                found=f"{len(others)} other entries, among them '{others[0]}'",
                next_step="Choose another directory; nothing in this one was touched.",
            )
    # Refuses a link; a card that somebody wrote is kept.
    tree.size(CARD_NAME)


def _other_store(where: str, manifest: Manifest, found: str) -> IdentityError:
    return IdentityError(
        f"{where}, fingerprint",
        expected=manifest.fingerprint,
        found=found,
        next_step="Pull to another directory; nothing in this one was touched.",
    )


def _fetch_files(
    there: Repository,
    commit: str,
    tree: Directory,
    manifest: Manifest,
    on_file: Callable[[int, int], None] | None,
) -> list[int]:
    """Fetch what is not there, several files at a time; return the sizes of what was fetched."""
    hashes = file_hashes(manifest)
    fetched = []
    with ThreadPoolExecutor(_THREADS) as executor:
        futures = [
            executor.submit(_fetch_file, there, commit, tree, path, sha256)
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
    tree.sync("shards")
    return fetched


def _fetch_file(
    there: Repository, commit: str, tree: Directory, path: str, sha256: str
) -> int | None:
    """Fetch and check a file, then move it to its place; return its size, or None if it is there.

    Raises:
        CorruptionError: it is missing, or another.
        StoreError: the Hub cannot be reached, or the file cannot be written.
    """
    if tree.hash(path) == sha256:
        return None
    there.download(commit, path, tree.root / _CLIENT)
    arrived = f"{_CLIENT}/{path}"
    found = tree.hash(arrived)
    if found != sha256:
        # The client would take it for what it is asked for again.
        tree.delete(arrived)
        raise CorruptionError(
            f"{there.url}/{path}",
            expected=f"SHA-256 {sha256}",
            found=found or "no file",
            next_step="Pull again. If it stays so, the store is damaged on the Hub: it is to be "
            "pushed again.",
        )
    return tree.move(arrived, path)
