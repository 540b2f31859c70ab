"""Which place a path or a URL means."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import unquote

from softtargets.errors import InputError
from softtargets.places.directory import Directory
from softtargets.places.place import Place
from softtargets.urls import is_url, redacted

StorePath = str | os.PathLike[str] | Place
"""What a store is read from or written to: a directory, a place, or a URL."""

_FILE_URL = re.compile(r"file:(//(localhost)?)?(?P<path>/(?!/)[^?#]*)", re.IGNORECASE)


def open_place(
    path: StorePath,
    *,
    filesystem: Any = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
) -> Place:
    """Return where a path, a URL, or a path of a file system leads; a place is itself.

    Raises:
        InputError: nothing opens the URL, or the other arguments do not go with the path.
        StoreError: the place cannot be reached, or the cache's directory cannot be used.
    """
    if path == "":
        raise InputError(
            "Store.open, path",
            expected="a directory or a URL",
            found="an empty text",
            next_step="'.' is the directory that you are in.",
        )
    if is_file_url(path):
        path = path_of_url(path)
    if isinstance(path, Place) or (filesystem is None and not is_url(path)):
        if cache_dir is not None or cache_bytes is not None:
            raise InputError(
                "Store.open, cache_dir and cache_bytes",
                expected="a store behind a URL or a file system",
                found=f"{path}"
                if isinstance(path, Place)
                else f"the local path {os.fsdecode(path)}",
                next_step="Omit them: local files are read where they are.",
            )
        return path if isinstance(path, Place) else Directory(Path(os.fsdecode(path)))
    # What reads local stores needs no client of an object store.
    from softtargets.places.remote import open_remote

    return open_remote(path, filesystem, cache_dir, cache_bytes)


def place_to_write(output: StorePath) -> Place:
    """Return the place that a store is to be written to; a place is itself.

    Raises:
        InputError: it is a URL of no object store, or what opens it is not installed.
    """
    if is_file_url(output):
        output = path_of_url(output)
    if isinstance(output, Place) or not is_url(output):
        return output if isinstance(output, Place) else Directory(Path(output))
    # What writes to directories needs no client of an object store.
    from softtargets.places.object_store import open_object_store

    return open_object_store(os.fspath(output))


def is_file_url(path: StorePath) -> TypeGuard[str]:
    """Return whether a text is the URL of a local file."""
    return isinstance(path, str) and path[:6].lower() == "file:/"


def path_of_url(url: str) -> str:
    """Return the path that a URL of a local file names.

    Raises:
        InputError: it names another machine, or has more than a path.
    """
    found = _FILE_URL.fullmatch(url)
    if found is None:
        raise InputError(
            redacted(url),
            expected="file:///directory, in which a ? and a # of a name are %3F and %23",
            found="another form",
            next_step="Pass the path alone.",
        )
    return unquote(found["path"], errors="surrogateescape")
