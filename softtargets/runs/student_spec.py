"""What `--student` names: a model, a configuration, or layers of the teacher."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from softtargets.errors import InputError

_TEACHER = re.compile(r"teacher\[(?P<name>layers|depth)=(?P<value>[\d,\s]+)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSpec:
    """A student as it was asked for."""

    kind: Literal["model", "config", "teacher"]
    """A directory or id of weights, a configuration to start from scratch, or teacher layers."""
    name: str
    """Of the model or the configuration; what was written, of teacher layers."""
    layers: tuple[int, ...] = ()
    """Of the teacher; empty where `depth` chooses them."""
    depth: int | None = None

    @classmethod
    def parse(cls, text: str) -> StudentSpec:
        """Return what a text asks for.

        Raises:
            InputError: it begins like teacher layers, and is none.
        """
        if text.startswith("teacher["):
            return cls._of_teacher(text)
        if text.endswith(".json"):
            return cls(kind="config", name=text)
        return cls(kind="model", name=text)

    @classmethod
    def _of_teacher(cls, text: str) -> StudentSpec:
        found = _TEACHER.fullmatch(text.strip())
        numbers = [] if found is None else _numbers(found["value"])
        if found is None or not numbers or (found["name"] == "depth" and len(numbers) != 1):
            raise InputError(
                "--student",
                expected="teacher[layers=0,2,4] or teacher[depth=3]",
                found=text,
                next_step="Number the layers from 0, with commas, in quotes for the shell.",
            )
        if found["name"] == "depth":
            return cls(kind="teacher", name=text, depth=numbers[0])
        return cls(kind="teacher", name=text, layers=tuple(numbers))

    def chosen_layers(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers to copy of a teacher with so many.

        Depth M takes layers round(i (N - 1) / (M - 1)): the first, the last, and others evenly in
        between. Of 12 layers, 6 are 0, 2, 4, 7, 9 and 11 (Sanh et al. 2019, DistilBERT).

        Raises:
            InputError: the teacher has not these layers, or they do not rise.
        """
        layers = self.layers
        if self.depth is not None and 1 <= self.depth <= num_layers:
            steps = max(1, self.depth - 1)
            layers = tuple(round(i * (num_layers - 1) / steps) for i in range(self.depth))
        rises = all(low < high for low, high in pairwise(layers))
        if not layers or not rises or layers[-1] >= num_layers:
            raise InputError(
                "--student",
                expected=f"rising numbers of the teacher's {num_layers} layers, 0 to "
                f"{num_layers - 1}, or a depth from 1 to {num_layers}",
                found=self.name,
                next_step="Name layers that the teacher has.",
            )
        return layers


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    return [int(part) for part in parts] if all(part.isdigit() for part in parts) else []
