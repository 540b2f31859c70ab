"""Paths of this machine, as arguments of commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from softtargets.errors import InputError
from softtargets.places import Place, place_to_write
from softtargets.urls import is_url, redacted


class LocalPath(click.Path):
    """A path that is no URL, which pathlib would garble, nor empty, which it takes for `.`.

    Args:
        expected: what it is a path of, for messages.
        options: as of click.Path.
    """

    def __init__(self, expected: str, **options: Any) -> None:
        super().__init__(path_type=Path, **options)
        self.expected = expected

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """Return the path.

        Raises:
            InputError: it is a URL, or empty.
        """
        if value == "" or is_url(value):
            raise InputError(
                redacted(str(value)) or "a path",
                expected=self.expected,
                found="a URL" if value else "an empty text",
                next_step="Pass a path of this machine. The tool of an object store, or rclone, "
                "copies what is there or here: a copy is the same store.",
            )
        return super().convert(value, param, ctx)


class CorpusPath(LocalPath):
    """A path of this machine, or a URL of files that are read."""

    def __init__(self) -> None:
        super().__init__("a file, a pattern, or a URL of files")

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """Return the path, or the URL as it is.

        Raises:
            InputError: it is empty.
        """
        return value if is_url(value) else super().convert(value, param, ctx)


class StorePlace(click.ParamType[Place]):
    """A directory, or a URL of an object store, that a store is written to."""

    name = "store"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Place:
        """Return the place.

        Raises:
            InputError: it is empty, or a URL of no object store.
        """
        if isinstance(value, Place):
            return value
        return place_to_write(value if is_url(value) else OUTPUT.convert(value, param, ctx))


CORPUS = CorpusPath()
INPUT = LocalPath("a local file or directory")
OUTPUT = LocalPath("a local directory to write to")
STORE = StorePlace()
