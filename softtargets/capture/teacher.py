"""The seam between capture and whoever answers: a model in this process, an engine, a server."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from softtargets.capture.abilities import LISTS, Abilities, check_abilities
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Keep, check_selection
from softtargets.capture.segments import Segment
from softtargets.capture.teacher_tokenizer import Tokenizer
from softtargets.errors import TeacherError
from softtargets.targets import HeadWeights, LayerWeights, OwnPart


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """The layers of a teacher."""

    num_layers: int
    width: int
    """Of the hidden states that go in and come out."""


class Teacher(Protocol):
    """What capture needs of a teacher.

    `LocalTeacher` in `teachers/local.py` does most of it for a model whose logits are tensors of
    this process. `tests/capture/teacher_suite.py` has the tests that every teacher passes.
    """

    name: str
    """What people call it."""
    vocab_size: int
    """Width of its output, padding included."""
    device: torch.device = torch.device("cpu")
    """Where it computes; the CPU when that is none of this process's business."""
    longest_sequence: int | None = None
    """The longest sequence that it can read; None when it has no such bound, or does not say."""
    abilities: Abilities = LISTS
    """What it can tell; unless it says otherwise, lists of its likeliest ids at temperature 1."""
    own_parts: tuple[OwnPart, ...] = ()
    """Parts of your own that its targets have; `capture` returns them in `Selected.others`."""
    modules: tuple[str, ...] = ()
    """What `load` imports and takes long: worker processes then have it from the start."""

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer its ids come from."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what decides its numbers, for the identity; it need not be loaded.

        `teacher` in schemas/identity.schema.json says which fields there must be.
        """

    def for_worker(self, worker: int) -> Teacher:
        """Return the teacher for a process of its own, the `worker`th; it must be picklable."""
        del worker
        return self

    def check(self, keep: Keep) -> None:
        """Check that it can tell what is to be kept, by its abilities; it need not be loaded.

        Raises:
            InputError: it cannot; the message names the option.
        """
        check_selection(keep.selection, self.vocab_size, keep.temperatures)
        check_abilities(keep, self.abilities, self.name)

    @abstractmethod
    def load(self) -> None:
        """Get ready for the two methods below."""

    @abstractmethod
    def capture(self, segments: Sequence[Segment], keep: Keep) -> Selected:
        """Return the targets of a batch of segments, one after another, on the host.

        Each segment is read by itself, from position 0; which others are in its batch may change
        rounding noise only. Numbers that are not finite are returned as they are: the caller
        refuses them.

        Raises:
            TeacherError: a segment has an id that the teacher does not know; see `check_ids`.
            RuntimeError: memory does not suffice, as `is_out_of_memory` tells. Fewer segments are
                tried next.
        """

    def output_head(self) -> HeadWeights:
        """Return the weights that make its logits; asked for only to be stored.

        Raises:
            TeacherError: it has none that can be stored.
        """
        raise TeacherError(
            self.name,
            expected="a teacher that has an output head",
            found="one that has none",
            next_step="Omit --hidden-states.",
        )

    def layer_shape(self) -> LayerShape:
        """Return how many layers it has, and how wide; it need not be loaded.

        A teacher that has some returns in `Selected.states_ND` and `token_states_MD` what
        `Keep.layers` asks for.

        Raises:
            TeacherError: its layers are not known.
        """
        raise TeacherError(
            self.name,
            expected="a teacher whose layers are known",
            found="one of which they are not",
            next_step="Name no layers: omit --rerun-layers, and all but last of --hidden-states.",
        )

    def layer_weights(self, numbers: Sequence[int]) -> LayerWeights:
        """Return layers that can be run by themselves; asked for only to be stored.

        Raises:
            TeacherError, InputError: one cannot.
        """
        del numbers
        raise TeacherError(
            self.name,
            expected="a teacher whose layers can be run by themselves",
            found="one whose cannot",
            next_step="Omit --rerun-layers.",
        )
