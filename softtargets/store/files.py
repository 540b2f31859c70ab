"""Writing files so that a crash leaves the old state or the new one, never half."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname
from uuid import uuid4

import xxhash

from softtargets.errors import BusyError, InputError, StoreError

TEMPORARY_SUFFIX = ".tmp"


def write_file(path: Path, content: bytes) -> None:
    """Write a file and make it durable: temporary file, fsync, rename, fsync of the directory.

    Raises:
        StoreError: the system refused, for example because the disk is full; nothing is left.
    """
    # Two processes may write the same file, each the same bytes.
    temporary = path.with_name(f"{path.name}.{uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            str(path),
            expected=f"to write {len(content):,} bytes",
            found=f"{error.strerror or error}",
            next_step="What was committed before is still there. Free some space or permit the "
            "write, then run the same command again to continue.",
        ) from error


def make_directory(path: Path) -> None:
    """Create a directory and its parents.

    Raises:
        InputError: the path was a URL.
        StoreError: the system refused.
    """
    if re.fullmatch(r"[a-z][a-z0-9+.-]+:", path.parts[0] if path.parts else ""):
        raise InputError(
            str(path),
            expected="a local directory to write to",
            found="a URL",
            next_step="Write to a local directory, then copy it, for example with rclone or with "
            "the tool of the object store: a copy is the same store.",
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            str(path),
            expected="a directory that can be created",
            found=f"{error.strerror or error}",
            next_step="Choose another directory, or permit writing to this one.",
        ) from error


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(content: bytes | memoryview) -> str:
    """Return the XXH3 of some bytes, 64 bits in hexadecimal."""
    return xxhash.xxh3_64_hexdigest(content)


def hash_bytes(content: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal, reading it in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def hold_lock(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock on a file that says who holds it; the system drops it on any death.

    Args:
        path: the file, in the `work` directory of a store.
        shared: let others hold it too that share it.
        wait: until nobody else holds it.

    Raises:
        BusyError: another process holds it.
        StoreError: the file system knows no locks.
    """
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, kind)
        except BlockingIOError as error:
            file.seek(0)
            raise BusyError(
                str(path.parent.parent),
                expected="no other build in this directory",
                found=f"one by {file.read().strip() or 'a process that just started'}",
                next_step="Wait for it to end, or choose another output directory.",
            ) from error
        except OSError as error:
            raise StoreError(
                str(path),
                expected="a file system with locks (flock)",
                found=f"{error.strerror or error}",
                next_step="Build on a local disk, or mount the network file system with locks.",
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {gethostname()}\n")
        file.flush()
        yield
