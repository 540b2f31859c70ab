"""Masked language models on the teacher's side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from softtargets.capture.build_config import BuildConfig, CaptureTask
from softtargets.capture.documents import Document, OnInvalid, Records
from softtargets.capture.identity import vocabulary_schema
from softtargets.capture.keep.selection import describe_selection
from softtargets.capture.records import RecordFields
from softtargets.capture.segments import Segment, segments_of
from softtargets.capture.teacher import Teacher
from softtargets.capture.teacher_tokenizer import SpecialIds, SpecialTokenizer, Tokenizer
from softtargets.capture.teachers.model_files import TeacherConfig
from softtargets.capture.windows import OnUnused, Windowing
from softtargets.errors import CorpusError, InputError
from softtargets.targets import TOKEN, HeadWeights, TargetSchema
from softtargets.tasks.masked_lm.masked_teacher import MaskedTeacher
from softtargets.tasks.masked_lm.masked_windows import MaskedWindows, bare_documents, word_starts
from softtargets.tasks.masked_lm.masking import Masking, token_weights
from softtargets.window import TokenWindow

_SEEDS = 1 << 53
"""How many there are: a whole number of an identity is below 2^53."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedCapture(CaptureTask):
    """Texts or token ids, cut into windows and masked; a selection of each distribution."""

    mask_probability: float = 0.15
    """Share of the tokens that are masked."""
    maskings: int = 4
    """How often each window is masked, each time otherwise."""
    mask_seed: int = 0
    whole_words: bool = False
    """Whether all tokens of a word are masked, or none."""
    token_weights: bool = False
    """Whether rare tokens are masked more often, as DistilBERT does."""
    hidden_rows: Literal["targets", "tokens"] = "targets"
    """Of which tokens hidden states are kept: those that have a target, or all."""
    hidden_values: Literal["exact", "int8"] = "exact"
    """In what they are kept: the teacher's number format, or int8 with a scale for each. With int8
    the output head is not kept, which is for exact ones."""

    def teacher(self, config: TeacherConfig) -> MaskedTeacher:
        """Return a masked language model."""
        return MaskedTeacher(config)

    def describe(self, config: BuildConfig) -> dict[str, Any]:
        """Return the selection, and what decides the masks."""
        masking: dict[str, Any] = {
            "probability": self.mask_probability,
            "maskings": self.maskings,
            "seed": self.mask_seed,
        }
        for name in ("whole_words", "token_weights"):
            if getattr(self, name):
                masking[name] = True
        return {"selection": describe_selection(config.selection), "masking": masking}

    def schema(
        self, config: BuildConfig, teacher: Teacher, head: HeadWeights | None
    ) -> TargetSchema:
        """Return a selection of the vocabulary at masked tokens, with what stood there.

        Raises:
            InputError: an option is out of range, or the teacher or its tokenizer is not such that
                windows can be masked.
        """
        self._check_options(config)
        special = _special_ids(teacher.tokenizer)
        _inner(config.windowing, special)
        _check_length(config.windowing, teacher)
        schema = vocabulary_schema(
            config, teacher, head, predicts=TOKEN.name, positions="listed", label_ids=True
        )
        features = tuple(replace(one, rows=self.hidden_rows) for one in schema.features)
        if self.hidden_values == "int8":
            features = tuple(replace(one, dtype="int8") for one in features)
            return replace(schema, features=features, output_head=None)
        return replace(schema, features=features)

    def records(self, corpus: RecordFields) -> Records:
        """Return the corpus itself: its fields are those of texts and token ids."""
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
        """Yield what `Windowing` cuts, to be masked."""
        del on_unused
        return self._maker(config, tokenizer).pieces(documents, tokenizer, counts, on_invalid)

    def assemble(
        self,
        pieces: Iterable[TokenWindow],
        config: BuildConfig,
        tokenizer: Tokenizer,
        counts: Counter[str],
    ) -> Iterator[TokenWindow]:
        """Yield pieces masked several times; see `MaskedWindows`."""
        maker = self._maker(config, tokenizer)
        return maker.maskings(pieces, self._masking(config, tokenizer, maker.special), counts)

    def _maker(self, config: BuildConfig, tokenizer: Tokenizer) -> MaskedWindows:
        special = _special_ids(tokenizer)
        return MaskedWindows(
            windowing=_inner(config.windowing, special),
            num_copies=self.maskings,
            special=special,
        )

    def segments(self, *windows: TokenWindow) -> list[Segment]:
        """Return each window as a segment."""
        return segments_of(*windows)

    def _masking(self, config: BuildConfig, tokenizer: Tokenizer, special: SpecialIds) -> Masking:
        """Return how tokens are masked; with weights, this reads the corpus."""
        num_ids = tokenizer.vocab_size
        ids_W = np.arange(num_ids, dtype=np.int32)
        weights_W = None
        if self.token_weights:
            read = config.corpus.documents(_ignore, self.records(config.corpus))
            bare = bare_documents(read, tokenizer, special, _ignore)
            ids = (np.asarray(one.content, np.int32) for one in bare)
            weights_W = token_weights(ids, num_ids, special.every)
        assert special.mask is not None
        return Masking(
            probability=self.mask_probability,
            seed=self.mask_seed,
            mask_id=special.mask,
            replacements_P=ids_W[~np.isin(ids_W, special.every)],
            starts_word_W=word_starts(tokenizer.vocabulary(), num_ids)
            if self.whole_words
            else None,
            weights_W=weights_W,
        )

    def _check_options(self, config: BuildConfig) -> None:
        """Check the options of this task, and those that it does not have.

        Raises:
            InputError: one is out of range.
        """
        probability, windowing = self.mask_probability, config.windowing
        hidden = self.hidden_rows, self.hidden_values
        for option, expected, found, holds in (
            ("--mask-probability", "above 0 and at most 1", probability, 0 < probability <= 1),
            ("--maskings", "a positive number", self.maskings, self.maskings > 0),
            ("--mask-seed", "from 0 to 2^53 - 1", self.mask_seed, 0 <= self.mask_seed < _SEEDS),
            ("--window", "split or truncate", windowing.kind, windowing.kind != "pack"),
            (
                "--messages-field",
                "texts or token ids",
                "conversations",
                config.corpus.messages_field is None,
            ),
            (
                "--hidden-rows, --hidden-values",
                "--hidden-states with them",
                "none",
                config.hidden_states or hidden == ("targets", "exact"),
            ),
        ):
            if not holds:
                raise InputError(
                    option,
                    expected=f"{expected}, with the task masked-lm",
                    found=f"{found}",
                    next_step="Omit it.",
                )


def _ignore(error: CorpusError) -> None:
    """Go on without a document that is wrong: it is told of when windows are made."""
    del error


def _special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """Return a tokenizer's special ids, the mask token among them.

    Raises:
        InputError: it has no mask token, or does not tell.
    """
    special = tokenizer.special_ids() if isinstance(tokenizer, SpecialTokenizer) else None
    if special is None or special.mask is None:
        raise InputError(
            "tokenizer",
            expected="one with a mask token, which stands for what is to be predicted",
            found="one without",
            next_step="Pass a masked language model with --teacher, with the tokenizer that it was "
            "trained with, or set tokenizer.mask_token and save it there.",
        )
    return special


def _inner(windowing: Windowing, special: SpecialIds) -> Windowing:
    """Return how documents are cut so that special tokens have room.

    Raises:
        InputError: they leave none.
    """
    room = len(special.before) + len(special.after)
    length = windowing.sequence_length - room
    if length < max(2, windowing.overlap + 1):
        raise InputError(
            "--sequence-length",
            expected=f"at least {room + max(2, windowing.overlap + 1)}: {room} special tokens, and "
            "two others, or one more than --overlap",
            found=str(windowing.sequence_length),
            next_step="Pass a larger one.",
        )
    return replace(windowing, sequence_length=length)


def _check_length(windowing: Windowing, teacher: Teacher) -> None:
    """Check that a teacher can read the longest window.

    Raises:
        InputError: it has fewer positions.
    """
    most = teacher.longest_sequence
    if most is not None and windowing.sequence_length > most:
        raise InputError(
            "--sequence-length",
            expected=f"at most {most:,}, as many tokens as {teacher.name} has positions for",
            found=f"{windowing.sequence_length:,}",
            next_step=f"Pass --sequence-length {most}: longer texts are then cut into windows.",
        )
