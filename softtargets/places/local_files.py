"""Files and directories of this machine that the user names."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from softtargets.errors import InputError, StoreError, error_text
from softtargets.places.tree import Tree

COPY_IT = (
    "Write to a local directory, then copy it, for example with rclone or with the tool of the "
    "object store: a copy is the same store."
)


def write_file(path: Path, content: bytes) -> None:
    """Write a file where the user said, durably; nothing is there yet, or a file.

    Raises:
        StoreError: a link or no file is there, or the system refused; nothing is left.
    """
    Tree(path.parent).put(path.name, content)


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
            next_step=COPY_IT,
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise StoreError(
            str(path),
            failed="the directory cannot be created",
            found=error_text(error),
            next_step="Choose another directory, or permit writing to this one.",
        ) from error


def check_is_new(directory: Path) -> None:
    """Check that nothing is where a command is to write a directory.

    Raises:
        StoreError: something is.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise StoreError(
            str(directory),
            expected="an empty directory, or nothing yet",
            found="something else",
            next_step="Choose another output directory.",
        )


def check_root(root: Path) -> None:
    """Check that a directory to write to is one, or nothing yet.

    Raises:
        StoreError: it is something else, or cannot be reached.
    """
    try:
        is_directory = stat.S_ISDIR(root.stat().st_mode)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise StoreError(
            str(root),
            failed="the directory cannot be reached",
            found=error_text(error),
            next_step="Choose another directory.",
        ) from error
    if not is_directory:
        raise StoreError(
            str(root),
            expected="a directory, or nothing yet",
            found="a file",
            next_step="Choose another directory.",
        )
