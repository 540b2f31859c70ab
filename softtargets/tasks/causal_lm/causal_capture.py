"""Causal language models on the teacher's side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from softtargets.capture.build_config import BuildConfig, CaptureTask
from softtargets.capture.documents import Document, OnInvalid, Records
from softtargets.capture.identity import vocabulary_schema
from softtargets.capture.keep.selection import describe_selection
from softtargets.capture.records import RecordFields
from softtargets.capture.segments import Segment, segments_of
from softtargets.capture.teacher import Teacher
from softtargets.capture.teacher_registry import open_teacher
from softtargets.capture.teacher_tokenizer import Tokenizer
from softtargets.capture.teachers.model_files import TeacherConfig
from softtargets.capture.windows import OnUnused
from softtargets.errors import InputError
from softtargets.targets import NEXT_TOKEN, HeadWeights, TargetSchema
from softtargets.tasks.causal_lm.answering import Answering
from softtargets.window import TokenWindow


@dataclass(frozen=True, slots=True)
class CausalCapture(CaptureTask):
    """Texts, token ids or conversations, cut into windows; a selection of each distribution."""

    def teacher(self, config: TeacherConfig) -> Teacher:
        """Return a causal language model, of transformers or of an engine."""
        return open_teacher(config)

    def describe(self, config: BuildConfig) -> dict[str, Any]:
        """Return the selection."""
        return {"selection": describe_selection(config.selection)}

    def schema(
        self, config: BuildConfig, teacher: Teacher, head: HeadWeights | None
    ) -> TargetSchema:
        """Return a selection of the vocabulary at all positions, or at the assistant's tokens."""
        found = vocabulary_schema(
            config,
            teacher,
            head,
            predicts=NEXT_TOKEN.name,
            positions="listed" if config.corpus.lists_positions else "all",
        )
        _check_length(config.windowing.sequence_length, teacher)
        return found

    def records(self, corpus: RecordFields) -> Records:
        """Return the corpus itself: its fields are those of texts, token ids and conversations."""
        return corpus

    def pieces(
        self,
        documents: Iterable[Document],
        config: BuildConfig,
        tokenizer: Tokenizer,
        counts: Counter[str],
        on_invalid: OnInvalid,
        on_unused: OnUnused,
    ) -> Iterator[TokenWindow]:
        """Yield what `Windowing` cuts, with a target for each token that another one precedes."""
        return config.windowing.pieces(
            documents,
            tokenizer,
            counts,
            convention=NEXT_TOKEN,
            lists_positions=config.corpus.lists_positions,
            on_invalid=on_invalid,
            on_unused=on_unused,
        )

    def prompting(self, corpus: RecordFields) -> Answering:
        """Return how prompts and conversations are answered."""
        return Answering(corpus=corpus)

    def segments(self, *windows: TokenWindow) -> list[Segment]:
        """Return each document of the windows as a segment, which is read by itself."""
        return segments_of(*windows)


def _check_length(sequence_length: int, teacher: Teacher) -> None:
    """Check that a teacher can read windows of a length.

    Raises:
        InputError: it cannot.
    """
    most = teacher.longest_sequence
    if most is not None and sequence_length > most:
        raise InputError(
            "--sequence-length",
            expected=f"at most {most}, the longest sequence that {teacher.name} can read",
            found=str(sequence_length),
            next_step=f"Pass --sequence-length {most}.",
        )
