"""Layouts by name: one that is entered here is found by the command line and by Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from softtargets.errors import InputError
from softtargets.layouts.layout import Layout, Way
from softtargets.places.open_place import StorePath
from softtargets.store.store import Store

LAYOUTS = {
    "plain": "softtargets.layouts.plain:Plain",
    "axolotl": "softtargets.layouts.axolotl:Axolotl",
    "distillkit": "softtargets.layouts.distillkit:DistillKit",
    "token-logits": "softtargets.layouts.token_logits:TokenLogits",
}
"""The module and the class of each layout. A module is imported when its layout is asked for."""

Direction = Literal["reads", "writes"]


def register(layout: type[Layout]) -> type[Layout]:
    """Let a layout of your own be found by its name; a decorator of its class."""
    LAYOUTS[layout.name] = f"{layout.__module__}:{layout.__qualname__}"
    return layout


def find_layout(name: str) -> type[Layout]:
    """Return the layout of this name.

    Raises:
        InputError: there is none.
    """
    if name not in LAYOUTS:
        raise _refused("layout", f"one of {', '.join(LAYOUTS)}", name)
    module, _, attribute = LAYOUTS[name].partition(":")
    layout: type[Layout] = getattr(import_module(module), attribute)
    return layout


def ways(direction: Direction) -> dict[str, Way]:
    """Return how the layouts that are read, or written, go this way, by name."""
    found = {name: getattr(find_layout(name), direction) for name in LAYOUTS}
    return {name: way for name, way in found.items() if way is not None}


def import_store(
    layout: str, paths: Sequence[str | Path], output: StorePath, **options: Any
) -> Store:
    """Make a store of files in the layout of this name, and return it; see `Layout.read`.

    Raises:
        InputError: there is no such layout, it is not read, or an option is none of its own.
        SoftTargetsError: what `Layout.read` raises.
    """
    found = find_layout(layout)
    _check(f"--from {layout}", "reads", found.reads, options)
    return found.read(paths, output, **options)


def export_store(layout: str, path: str | Path, output: str | Path, **options: Any) -> Path:
    """Write a store in the layout of this name, and return the directory; see `Layout.write`.

    Raises:
        InputError: there is no such layout, it is not written, or an option is none of its own.
        SoftTargetsError: what `Layout.write` raises.
    """
    found = find_layout(layout)
    _check(f"--to {layout}", "writes", found.writes, options)
    return found.write(path, output, **options)


def _check(where: str, direction: Direction, way: Way | None, given: Mapping[str, Any]) -> None:
    if way is None:
        raise _refused(where, f"one of {', '.join(ways(direction))}", "one that goes no such way")
    own = {option.name: option for option in way.options}
    wrong = [name for name in given if name not in own]
    if wrong:
        all_options = [option for other in ways(direction).values() for option in other.options]
        spelled = {option.name: option.spelled for option in all_options}
        found = ", ".join(spelled.get(name, name) for name in wrong)
        raise _refused(where, "options of this layout", found)
    for name, value in given.items():
        choices = own[name].choices
        if choices and value not in choices:
            where = f"{where}, {own[name].spelled}"
            raise _refused(where, f"one of {', '.join(choices)}", f"{value}")


def _refused(where: str, expected: str, found: str) -> InputError:
    return InputError(
        where,
        expected=expected,
        found=found,
        next_step="--help says which layouts there are, and which options each has.",
    )
