"""What generation asks of a family of models: prompts of records, and records of answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from softtargets.capture.documents import Document, Records
from softtargets.capture.records import RecordFields
from softtargets.capture.segments import Segment
from softtargets.capture.teachers.taken_apart import TakenApartTeacher
from softtargets.targets import Int32


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt(Document):
    """What a teacher is to go on from: a text or a conversation, which is `content`."""

    where: str
    """The record's place, for messages."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """What the records of its answers have beside the answer."""
    reference: str | None = None
    """What somebody else wrote."""


class Prompting(Protocol):
    """How a family's models are asked, and what is written of their answers.

    It must be picklable, for workers.
    """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what decides prompts and records, beside corpus and teacher."""

    @abstractmethod
    def records(self, corpus: RecordFields, *, has_reference: bool) -> Records:
        """Return how records become prompts.

        Args:
            corpus: which fields are meant.
            has_reference: whether each record has to have a reference.

        Raises:
            InputError: records of this family have none.
        """

    @abstractmethod
    def encode(self, teacher: TakenApartTeacher, prompt: Prompt) -> Int32:
        """Return what the teacher reads of a prompt, which `generate` checks the length of.

        Raises:
            CorpusError: there is nothing to read.
        """

    @abstractmethod
    def most_read(self, teacher: TakenApartTeacher, max_new_tokens: int) -> int | None:
        """Return how many tokens a prompt may have; None for any number.

        Raises:
            InputError: so many new tokens are more than the model has positions for.
        """

    @abstractmethod
    def settings(self, teacher: TakenApartTeacher) -> dict[str, Any]:
        """Return settings of transformers' generation that follow from the family."""

    @abstractmethod
    def inputs(self, teacher: TakenApartTeacher, prompts: Sequence[Int32]) -> dict[str, Any]:
        """Return what the model is called with to go on from some prompts."""

    @abstractmethod
    def num_before(self, inputs: Mapping[str, torch.Tensor]) -> int:
        """Return how many tokens the model returns before those that it writes."""

    @abstractmethod
    def segment(self, teacher: TakenApartTeacher, prompt_M: Int32, answer_T: Int32) -> Segment:
        """Return a prompt and its answer as the teacher reads them, with a target at each token."""

    @abstractmethod
    def texts(
        self, teacher: TakenApartTeacher, prompts: Sequence[Int32], answers: Sequence[Int32]
    ) -> list[str]:
        """Return the text of each answer to each prompt, without special tokens."""

    @abstractmethod
    def record(self, prompt: Mapping[str, Any], answer: str) -> dict[str, Any]:
        """Return the record of an answer, which `build` reads with the options of `generate`.

        Args:
            prompt: `Prompt.record`.
            answer: what the teacher wrote.
        """
