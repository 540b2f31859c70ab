"""Attacks by files that lie where we read and write, and by links and pipes in their place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.attacks.attack import Attack, Outcome, command
from tests.fakes import build_store
from tests.trees import snapshot

_PRIVATE = "the private file that nobody named"


def _with_store(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return what builds a store and then makes something of it, or beside it."""

    def prepare(directory: Path) -> None:
        (directory / "private").write_text(_PRIVATE)
        build_store(directory)
        make(directory)

    return prepare


def _put(path: str) -> Callable[[Path], object]:
    def make(directory: Path) -> None:
        target = directory / "output" / path
        target.parent.mkdir(parents=True)
        target.write_text(_PRIVATE)

    return make


def _touched(path: str) -> Callable[[Path, Outcome], str]:
    """Return what finds a file in `output` changed, or another one beside it."""

    def harm(directory: Path, _: Outcome) -> str:
        found = {
            name: content
            for name, (_, content) in snapshot(directory / "output").items()
            if not (directory / "output" / name).is_dir()
        }
        return "" if found == {path: _PRIVATE.encode()} else f"the output holds {sorted(found)}"

    return harm


def _leaked(directory: Path, outcome: Outcome) -> str:
    """Find the private file changed, or what it says somewhere else."""
    if (directory / "private").read_text() != _PRIVATE:
        return "the private file was changed"
    others = (
        path
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink() and path != directory / "private"
    )
    if _PRIVATE in outcome.output or any(_PRIVATE.encode() in one.read_bytes() for one in others):
        return "the private file was copied"
    return ""


def _replace(path: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        target = directory / "store" / path
        if target.is_dir():
            target.rename(directory / "elsewhere")
        else:
            target.unlink(missing_ok=True)
        make(target)

    return change


def _link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


_WRITING = {
    "filter": ("filter", "store", "--trained-only", "--output", "output"),
    "merge": ("merge", "store", "store", "--output", "output"),
    "export": ("export", "store", "output", "--to", "plain"),
}
_FOREIGN = ("shards/train-0.tar", "work/thesis.tex", "work/lock", "work/plan.json", "README.md")
_FILES = ("manifest.json", "shards/unit-000001.parquet", "vocabulary.parquet", "README.md")
_READER = {"README.md": ("card", "store")}

ATTACKS = (
    *(
        Attack(
            kind="a user's own files where a command writes",
            name=f"{name} beside {path}",
            prepare=_with_store(_put(path)),
            run=command(*arguments),
            harm=_touched(path),
        )
        for name, arguments in _WRITING.items()
        for path in _FOREIGN
    ),
    *(
        Attack(
            kind="a link in a store to a file elsewhere",
            name=path,
            prepare=_with_store(_replace(path, _link("../private"))),
            run=command(*_READER.get(path, ("verify", "store"))),
            harm=_leaked,
        )
        for path in _FILES
    ),
    Attack(
        kind="a user's own files where a command writes",
        name="report over a link to one",
        prepare=_with_store(lambda place: (place / "page.html").symlink_to("private")),
        run=command("report", "store", "--output", "page.html"),
        harm=_leaked,
    ),
    Attack(
        kind="a link in a store to a file elsewhere",
        name="the directory of the shards",
        prepare=_with_store(_replace("shards", _link("../elsewhere"))),
        run=command("verify", "store"),
        harm=_leaked,
    ),
    *(
        Attack(
            kind="a named pipe or a device in place of a file",
            name=f"{name} as {path}",
            prepare=_with_store(_replace(path, make)),
            run=command(*_READER.get(path, ("verify", "store"))),
        )
        for name, make in (("a pipe", os.mkfifo), ("/dev/zero", _link("/dev/zero")))
        for path in _FILES
    ),
    *(
        Attack(
            kind="a path that cannot be",
            name=name,
            prepare=_with_store(lambda _: None),
            run=command("filter", "store", "--trained-only", "--output", path),
        )
        for name, path in (
            ("a name of 300 letters", "x" * 300),
            ("below a file", "private/output"),
            ("a file", "private"),
        )
    ),
    Attack(
        kind="a path that cannot be",
        name="a store whose name is too long",
        run=command("verify", "x" * 5000),
    ),
)
