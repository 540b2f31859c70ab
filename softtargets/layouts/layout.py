"""What a layout is: how another tool stores soft targets, and what it leaves to the caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args

from softtargets.places.open_place import StorePath
from softtargets.store.store import Store


@dataclass(frozen=True, slots=True)
class Option:
    """A keyword of a layout's `read` or `write`, as the command line offers it."""

    name: str
    kind: Any
    """Of its value: str, int, float, bool, Path, Tokenizer, or a Literal of the only values."""
    help: str
    """What it is for, and what holds without it."""
    flag: str = ""
    """What the command line calls it, where that is not the name."""
    is_required: bool = False

    @property
    def choices(self) -> tuple[str, ...]:
        """Return the only values there are; none where any value of the kind is one."""
        return get_args(self.kind)

    @property
    def spelled(self) -> str:
        """Return the option as a command has it."""
        return self.flag or f"--{self.name.replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class Way:
    """One way through a layout, in or out."""

    summary: str
    """What the files are, for `--help`."""
    options: tuple[Option, ...] = ()


class Layout:
    """How one tool stores soft targets.

    A subclass that is read has `reads` and `read`, one that is written `writes` and `write`. The
    options of a way are keywords of its method. `LAYOUTS` in `registry.py` says where a class is.
    """

    name: ClassVar[str]
    """What `--from` and `--to` call it."""
    reads: ClassVar[Way | None] = None
    """None where nothing is imported from it."""
    writes: ClassVar[Way | None] = None
    """None where nothing is exported to it."""

    @classmethod
    def read(cls, paths: Sequence[str | Path], output: StorePath, *_: Any, **options: Any) -> Store:
        """Make a store of files, and return it. Every row is checked before the first is written.

        Args:
            paths: files, or directories of them.
            output: directory, URL or place of the store; nothing is there afterwards when the files
                are refused.
            options: those of `reads`.

        Raises:
            CorpusError: a file or a row is not what the layout says; the message names both.
            LimitError: the files unpack to more than they are trusted with.
            InputError: an option contradicts the files, or there is no row with a target.
            IdentityError: the output is another store, finished or not.
            StoreError: the output cannot be written.
        """
        raise NotImplementedError

    @classmethod
    def write(cls, path: str | Path, output: str | Path, *_: Any, **options: Any) -> Path:
        """Write a store as a directory of files, and return the directory.

        Args:
            path: the store.
            output: an empty directory, or none yet, as it stays when the targets are refused.
            options: those of `writes`.

        Raises:
            InputError: the layout cannot hold such targets, or an option does not fit them.
            TemperatureError: a temperature is not in the store's grid.
            StoreError: the store cannot be read, or the output is not an empty directory.
        """
        raise NotImplementedError
