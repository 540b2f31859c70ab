"""Classes: the logits of every class, of models that classify."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from softtargets.targets.arrays import Array, Cells, Columns, Offsets
from softtargets.targets.part import BELOW_INFINITY, Column, Fault, Part, outside
from softtargets.targets.promises import Promise, Promises
from softtargets.targets.soft_targets import SoftTargets

ClassProblem = Literal["multi_label", "regression"]
"""What class logits are where not just one class is right: each label's own, or a score's value."""
UNKNOWN_LABEL = -1
"""The label of a target whose label nobody has said."""
_NAME = "class_logits"


@dataclass(frozen=True, slots=True)
class Classes(Part):
    """The class logits of targets."""

    num_classes: int
    names: tuple[str, ...] = ()
    problem: ClassProblem | None = None

    def columns(self) -> Sequence[Column]:
        """Return the logits, target after target."""
        words = "logit of each class, target after target"
        return [Column(_NAME, "float32", "classes", words, within=BELOW_INFINITY)]

    def describe(self) -> str:
        """Return how many there are, and what they are."""
        kind = {
            None: "class logits",
            "multi_label": "logits of labels that do not exclude each other",
            "regression": "values of a score",
        }[self.problem]
        return f"{self.num_classes} {kind}"

    def fits(self) -> Promises:
        """Yield that each class has a name of its own, where they have names."""
        num_names = len(set(self.names))
        words = f"{self.num_classes} names of classes that differ, or none"
        yield Promise(words, not self.names or num_names == len(self.names) == self.num_classes)

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
        """Find targets that rule every class out; one label may be, and a score is a number."""
        logits = columns[_NAME]
        if self.problem is not None:
            has_value = np.isfinite(logits) | (self.problem == "multi_label")
            yield from outside(logits, has_value, offsets, _NAME, "a finite score")
            return
        # NaN is out of the column's range, and not meant here.
        is_ruled_out_T = (logits.reshape(-1, self.num_classes) == -np.inf).all(axis=1)
        holds = ~np.repeat(is_ruled_out_T, self.num_classes)
        yield from outside(logits, holds, offsets, _NAME, "a class above -inf")
