"""Locks on files that say who holds them; the system drops them on any death."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from softtargets.errors import BusyError, StoreError, error_text
from softtargets.places.place import LockGoneError
from softtargets.places.tree import Tree
from softtargets.places.waiting import Waiting, described, this_process, way_on

_MOST_BYTES = 512
_MARK = b"process "


@contextmanager
def hold_lock(
    tree: Tree, path: str, *, shared: bool = False, wait_for: str | None = None, note_at: int = 0
) -> Iterator[int]:
    """Hold a lock on a file, which is made if there is none; yield its descriptor.

    Args:
        tree: in whose root something is built.
        path: of the file.
        shared: let others hold it too that share it.
        wait_for: wait until nobody else holds it, and call it so when it takes long.
        note_at: where in the file its holder is named; before that the caller keeps a number.

    Raises:
        LockGoneError: its directory is gone.
        BusyError: another process holds it.
        StoreError: it cannot be written, is not ours, or the file system knows no locks.
    """
    descriptor = -1
    while descriptor < 0:
        descriptor = _take(tree, path, shared, wait_for, note_at)
    try:
        yield descriptor
    finally:
        # Closing is not enough where another thread has forked a process meanwhile.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def read_holder(tree: Tree, path: str, note_at: int = 0) -> str:
    """Return who holds a lock, or held it last; nothing if nobody did."""
    file = tree.open_file(path)
    if file is None:
        return ""
    with file:
        file.seek(note_at)
        return file.read(_MOST_BYTES).decode("utf-8", "replace").strip()


def _take(tree: Tree, path: str, shared: bool, wait_for: str | None, note_at: int) -> int:
    """Return the locked file, or -1 if it was removed before it could be locked."""
    file = tree.open_lock(path)
    if file is None:
        raise LockGoneError(path)
    with file:
        _check_ours(tree, path, file.read(_MOST_BYTES), note_at)
        _lock(tree, path, file.fileno(), shared, wait_for, note_at)
        if not tree.is_same(path, file.fileno()):
            return -1
        try:
            os.ftruncate(file.fileno(), note_at)
            os.pwrite(file.fileno(), f"{this_process()}\n".encode(), note_at)
        except OSError as error:
            raise StoreError(
                tree.where(path),
                failed="cannot be written",
                found=error_text(error),
                next_step="Free some space, or permit the write.",
            ) from error
        # The lock stays with the copy.
        return os.dup(file.fileno())


def _lock(
    tree: Tree, path: str, descriptor: int, shared: bool, wait_for: str | None, note_at: int
) -> None:
    def holder() -> str:
        return read_holder(tree, path, note_at)

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        if _is_free(descriptor, kind):
            return
        if wait_for is not None:
            with Waiting(str(tree.root), wait_for, holder).telling():
                fcntl.flock(descriptor, kind)
            return
    except OSError as error:
        raise StoreError(
            tree.where(path),
            expected="a file system with locks (flock)",
            found=error_text(error),
            next_step="Build on a local disk, or mount the network file system with locks.",
        ) from error
    busy = holder()
    raise BusyError(
        str(tree.root),
        expected="no other build in this directory",
        found=f"one by {described(busy)}",
        next_step=f"Choose another output directory, or wait. {way_on(busy)}",
    )


def _is_free(descriptor: int, kind: int) -> bool:
    """Take a lock unless another process holds it; return whether it was taken."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_ours(tree: Tree, path: str, content: bytes, note_at: int) -> None:
    number, note = content[:note_at], content[note_at:]
    if number.strip(b"0123456789\n\0") or (note and not note.startswith(_MARK)):
        raise StoreError(
            tree.where(path),
            expected="a lock file of softtargets, or nothing",
            found="another file",
            next_step="Choose another directory; this file was not touched.",
        )
