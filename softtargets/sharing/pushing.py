"""Push a store to the Hub: checked first, sent once, and never to be seen half.

The manifest comes in the last commit, so nobody reads a store whose shards are missing. What an
interrupted push sent is not sent again: files of earlier commits are compared by hash, and those
that were sent but not committed the Hub knows by hash too. A commit takes at most 100 files, as the
Hub recommends; a smaller store is one commit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from softtargets.errors import CorruptionError, FormatError, IdentityError, InputError, StoreError
from softtargets.places.tree import Tree
from softtargets.sharing.dataset_card import unstated_licences, write_card
from softtargets.sharing.repository import Repository
from softtargets.sharing.shared_files import file_hashes, is_store_file
from softtargets.store import Store, verify
from softtargets.store.card import CARD_NAME
from softtargets.store.manifest import MANIFEST_NAME, parse_identity

_COMMIT_FILES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """Where a store is now, and what was sent for it."""

    url: str
    """For `Store.open` and `SoftTargetDataset`."""
    repository: str
    revision: str
    commit: str
    num_files: int
    """That the commits of this call added or changed."""
    num_bytes: int
    """Of these files."""
    unstated_licences: tuple[str, ...]
    """Whose licences the card leaves open."""

    @classmethod
    def of(
        cls,
        there: Repository,
        commit: str,
        sent: Sequence[CommitOperationAdd],
        unstated: tuple[str, ...],
    ) -> PushResult:
        """Say where a store is, and count what was sent."""
        return cls(
            url=there.url,
            repository=there.name,
            revision=there.revision,
            commit=commit,
            num_files=len(sent),
            num_bytes=sum(one.upload_info.size for one in sent),
            unstated_licences=unstated,
        )


def push(
    store: Store | str | os.PathLike[str],
    repository: str,
    *,
    revision: str | None = None,
    private: bool = False,
    message: str | None = None,
    replace: bool = False,
    api: HfApi | None = None,
) -> PushResult:
    """Push a local store to a dataset repository, which is made if there is none; or go on with it.

    The files of the store and its card are sent, and nothing else that lies beside them. Every
    checksum is checked first. What is there already is not sent again.

    Args:
        store: a store of this machine, or its directory.
        repository: org/name, or org/name@branch.
        revision: branch, main by default; made from main if there is none of this name.
        private: make a new repository private.
        message: of the commit.
        replace: delete another store that is there.
        api: client with an endpoint and token that the environment doesn't say.

    Raises:
        InputError: the store is behind a URL, or a private repository is asked for and is public.
        CorruptionError or FormatError: the store is damaged, or its card.
        StoreError or IdentityError: the Hub cannot be reached or refuses, or has another store.
    """
    store = store if isinstance(store, Store) else Store.open(store)
    there = Repository.parse(repository, revision, api)
    card = write_card(store)
    _check_whole(store)
    _make(there, private)
    changes = _find_changes(there, store, replace)
    commit = changes.send(there, message or f"Push soft targets {store.fingerprint[:12]}")
    return PushResult.of(there, commit, changes.missing, unstated_licences(card))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Changes:
    """What a repository needs to become the store."""

    parent: str
    """The commit that it is at."""
    missing: Sequence[CommitOperationAdd]
    commits: Sequence[list[CommitOperationAdd | CommitOperationDelete]]

    def send(self, there: Repository, message: str) -> str:
        """Commit them, and return the last commit."""
        commit = self.parent
        for number, operations in enumerate(self.commits, start=1):
            many = f" ({number} of {len(self.commits)})" if len(self.commits) > 1 else ""
            with there.errors():
                commit = there.api.create_commit(
                    there.name,
                    operations,
                    commit_message=message + many,
                    repo_type="dataset",
                    revision=there.revision,
                    parent_commit=commit,
                ).oid
        return commit


def _find_changes(there: Repository, store: Store, replace: bool) -> _Changes:
    """Compare a repository with a store, and refuse what holds another one; see `push`."""
    commit = there.commit()
    found = there.files(commit)
    is_same_store = _has_same_manifest(there, commit, found, store, replace)
    additions = _checked_additions(store)
    missing = [one for one in additions if not _is_there(found.get(one.path_in_repo), one)]
    stale = sorted({path for path in found if is_store_file(path)} - _paths(additions))
    if not replace:
        others = {path for path in _paths(missing) & set(found) if is_store_file(path)}
        _check_no_others(there, [*stale, *([] if is_same_store else sorted(others))])
    hides_manifest = MANIFEST_NAME in _paths(missing) & set(found)
    commits = _cut_commits(missing, stale, hides_manifest=hides_manifest)
    return _Changes(parent=commit, missing=missing, commits=commits)


def _check_whole(store: Store) -> None:
    """Check sizes and footers, and that there are no strange shards."""
    report = verify(store, fast=True)
    if not report.is_sound:
        first = report.problems[0]
        raise CorruptionError(first.where, expected=first.expected, found=first.found)


def _make(there: Repository, private: bool) -> None:
    """Make repository and branch, as far as they are missing."""
    api, branch = there.api, there.revision
    with there.errors():
        try:
            is_private = api.dataset_info(there.name).private
        except RepositoryNotFoundError:
            # Where nothing is asked for, the owner's default holds.
            api.create_repo(there.name, private=private or None, repo_type="dataset")
            is_private = private
        try:
            api.dataset_info(there.name, revision=branch)
        except RevisionNotFoundError:
            api.create_branch(there.name, branch=branch, repo_type="dataset", exist_ok=True)
    if private and not is_private:
        raise InputError(
            there.url,
            expected="a new repository, or one that is private",
            found="a public one",
            next_step="Choose another name, make the repository private on its page, or omit "
            "--private.",
        )


def _has_same_manifest(
    there: Repository, commit: str, found: Mapping[str, RepoFile], store: Store, replace: bool
) -> bool:
    """Return whether the repository holds this store, finished.

    Raises:
        IdentityError: it holds another one, and that is not to be replaced.
        FormatError, CorruptionError: it holds one that cannot be read, and neither is that.
    """
    content = there.read(commit, MANIFEST_NAME) if MANIFEST_NAME in found else None
    if content is None:
        return False
    try:
        _, other = parse_identity(content, f"{there.url}/{MANIFEST_NAME}")
    except (FormatError, CorruptionError):
        if replace:
            return False
        raise
    if other == store.fingerprint:
        return True
    if not replace:
        raise IdentityError(
            f"{there.url}, fingerprint",
            expected=f"{store.fingerprint}, that of {store.location}, or no store yet",
            found=other,
            next_step="Push to another repository or branch, or pass --replace to delete the store "
            "that is there; the history of the repository keeps it.",
        )
    return False


def _checked_additions(store: Store) -> list[CommitOperationAdd]:
    """Return what is to be in the repository, the manifest last, every checksum checked.

    Raises:
        CorruptionError: a file is not what was committed.
        StoreError: a file is a link, or cannot be read.
    """
    hashes, tree = file_hashes(store.manifest), Tree(store.root)
    additions = []
    for path in hashes:
        # A link to the same content is refused too.
        tree.size(path)
        addition = CommitOperationAdd(path_in_repo=path, path_or_fileobj=store.root / path)
        # The client needs the hash too, and keeps it: a file is read twice, to check and to send.
        # What takes its place meanwhile is not sent under this hash.
        sha256 = addition.upload_info.sha256.hex()
        if sha256 != hashes[path]:
            raise CorruptionError(
                store.location.where(path),
                expected=f"SHA-256 {hashes[path]}",
                found=sha256,
            )
        additions.append(addition)
    for path in (CARD_NAME, MANIFEST_NAME):
        # No checksum tells what these are to be, so what was read is what is sent.
        content = tree.get(path)
        assert content is not None
        additions.append(CommitOperationAdd(path_in_repo=path, path_or_fileobj=content))
    return additions


def _is_there(found: RepoFile | None, addition: CommitOperationAdd) -> bool:
    """Return whether the repository has this very file."""
    info = addition.upload_info
    if found is None or found.size != info.size:
        return False
    if found.lfs is not None:
        return bool(found.lfs.sha256 == info.sha256.hex())
    # Small files are in git itself, by git's own hash.
    with addition.as_file() as file:
        return bool(found.blob_id == git_hash(file.read()))


def _check_no_others(there: Repository, paths: Sequence[str]) -> None:
    if paths:
        raise StoreError(
            there.url,
            expected="no files but those of this store",
            found=f"{len(paths)} others where a store has its own, such as {paths[0]}",
            next_step="Push to another repository or branch, or pass --replace to delete them; the "
            "history of the repository keeps them.",
        )


def _paths(additions: Sequence[CommitOperationAdd]) -> set[str]:
    return {addition.path_in_repo for addition in additions}


def _cut_commits(
    missing: Sequence[CommitOperationAdd], stale: Sequence[str], *, hides_manifest: bool
) -> list[list[CommitOperationAdd | CommitOperationDelete]]:
    """Return the operations of each commit; at no commit does a manifest lack its shards.

    Args:
        missing: what is to be added, the manifest last.
        stale: what is to be deleted.
        hides_manifest: that another manifest is there, to be deleted before shards change.
    """
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationDelete(path_in_repo=path) for path in stale),
        *missing,
    ]
    commits = [
        operations[start : start + _COMMIT_FILES]
        for start in range(0, len(operations), _COMMIT_FILES)
    ]
    if len(commits) > 1 and hides_manifest:
        commits[0].insert(0, CommitOperationDelete(path_in_repo=MANIFEST_NAME))
    return commits
