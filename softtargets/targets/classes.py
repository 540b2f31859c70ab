"""Classes: the logits of every class, of models that classify."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softtargets.targets.arrays import Array, Cells, Columns, Offsets
from softtargets.targets.part import BELOW_INFINITY, Column, Fault, Part, outside
from softtargets.targets.soft_targets import SoftTargets

_NAME = "class_logits"


@dataclass(frozen=True, slots=True)
class Classes(Part):
    """The class logits of targets."""

    num_classes: int

    def columns(self) -> Sequence[Column]:
        """Return the logits, target after target."""
        words = "logit of each class, target after target"
        return [Column(_NAME, "float32", "classes", words, within=BELOW_INFINITY)]

    def describe(self) -> str:
        """Return how many there are."""
        return f"{self.num_classes} class logits"

    def exactness(self, imported: Mapping[str, Any] | None) -> Iterator[str]:
        """Yield that nothing is rounded."""
        yield "Class logits are float32, as the teacher gave them."

    @property
    def holds(self) -> Sequence[str]:
        """Return what `SoftTargets.parts` calls them."""
        return ("class logits",)

    def pack(self, targets: SoftTargets) -> dict[str, Array]:
        """Return the logits of all targets, one after the other."""
        assert targets.class_logits_TC is not None
        return {_NAME: targets.class_logits_TC.ravel()}

    def unpack(self, cells: Cells) -> dict[str, Any]:
        """Return the logits [T, C]."""
        return {"class_logits_TC": cells[_NAME].reshape(-1, self.num_classes)}

    def for_batches(
        self, columns: Columns, offsets: Offsets, where: str
    ) -> tuple[Columns, Offsets]:
        """Return the logits [T, C]."""
        logits = columns[_NAME].reshape(-1, self.num_classes)
        return {**columns, _NAME: logits}, {**offsets, _NAME: offsets["mask"]}

    def faults(self, columns: Columns, offsets: Offsets) -> Iterator[Fault]:
        """Find targets that rule every class out."""
        logits = columns[_NAME]
        # NaN is out of the column's range, and not meant here.
        is_ruled_out_T = (logits.reshape(-1, self.num_classes) == -np.inf).all(axis=1)
        holds = ~np.repeat(is_ruled_out_T, self.num_classes)
        yield from outside(logits, holds, offsets, _NAME, "a class above -inf")
