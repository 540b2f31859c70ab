"""Parts that the package does not know: defined by you, and registered before they are met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from softtargets.targets.arrays import Array, Cells
from softtargets.targets.part import Part
from softtargets.targets.soft_targets import SoftTargets


@dataclass(frozen=True, slots=True)
class OwnPart(Part):
    """A part of your own: a frozen dataclass whose fields are its options.

    It says at least what it is called and which columns it has. Its arrays are those of
    `SoftTargets.others`, by the name of their column; a batch has a tensor of each column.
    """

    key: ClassVar[str]
    """What it is called in the manifest."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @property
    def holds(self) -> Sequence[str]:
        """Return the names of its columns."""
        return [column.name for column in self.columns()]

    def pack(self, targets: SoftTargets) -> dict[str, Array]:
        """Return its arrays as they are."""
        return {name: targets.others[name] for name in self.holds}

    def unpack(self, cells: Cells) -> dict[str, Any]:
        """Return its arrays as they are."""
        return {"others": {name: cells[name] for name in self.holds}}


REGISTERED: dict[str, type[OwnPart]] = {}


def register(kind: type[OwnPart]) -> type[OwnPart]:
    """Let stores have a part of your own; a decorator of its class."""
    REGISTERED[kind.key] = kind
    return kind
