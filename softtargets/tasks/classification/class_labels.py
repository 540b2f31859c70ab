"""The classes of a teacher, and what records call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softtargets.errors import CorpusError
from softtargets.targets import UNKNOWN_LABEL, ClassProblem, Float32
from softtargets.targets.part import LARGEST_FLOAT
from softtargets.texts import shortened

_NEXT_STEP = "Mend the record, name another field with --label-field, or leave such records out "
_NEXT_STEP += "with --on-invalid skip."


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLabels:
    """The classes that a model tells apart, by number."""

    names: tuple[str, ...]
    problem: ClassProblem | None
    """See `TargetSchema.problem`."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def _listed(self) -> str:
        return shortened(", ".join(self.names))

    def number(self, label: Any, where: str) -> int:
        """Return the number of a class that is named, or numbered; that of None is unknown.

        Raises:
            CorpusError: there is no such class.
        """
        if label is None:
            return UNKNOWN_LABEL
        if isinstance(label, str) and label in self.names:
            return self.names.index(label)
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(self):
            return label
        raise self._wrong(
            where,
            f"one of the teacher's classes ({self._listed}), or its number from 0 to "
            f"{len(self) - 1}",
            label,
        )

    def values(self, label: Any, where: str) -> Float32:
        """Return the label as a number for each class [C]: 0 or 1, or a score; NaN of None.

        Args:
            label: with multi_label, the names of the labels that are right, or a 0 or 1 for each.
                With regression, the score, or a number for each.
            where: the record, for messages.

        Raises:
            CorpusError: it is something else.
        """
        if label is None:
            return np.full(len(self), np.nan, np.float32)
        if self.problem == "multi_label":
            return self._answers(label, where)
        numbers = label if _is_list(label) else [label]
        if len(numbers) != len(self) or not all(map(_is_score, numbers)):
            words = "a finite number" if len(self) == 1 else f"a list of {len(self)} finite numbers"
            raise self._wrong(where, words, label)
        return np.array(numbers, np.float32)

    def _answers(self, label: Any, where: str) -> Float32:
        """Return which labels are right."""
        if _is_list(label) and all(isinstance(one, str) for one in label):
            if set(label) <= set(self.names):
                return np.array([name in label for name in self.names], np.float32)
        elif _is_list(label) and len(label) == len(self) and all(one in (0, 1) for one in label):
            return np.array(label, np.float32)
        raise self._wrong(
            where,
            f"a list of names of the teacher's labels ({self._listed}), or {len(self)} "
            "numbers that are 0 or 1",
            label,
        )

    def _wrong(self, where: str, expected: str, label: Any) -> CorpusError:
        return CorpusError(
            f"{where}, its label",
            expected=expected,
            found=shortened(f"{label!r}"),
            next_step=_NEXT_STEP,
        )


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_score(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST_FLOAT
