"""What a classifier makes of texts: pairs of them, token types, as many tokens as fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from softtargets.capture.teacher_tokenizer import TransformersTokenizer
from softtargets.errors import TeacherError
from softtargets.targets import Bool, Convention, Int32
from softtargets.tasks.classification.class_labels import ClassLabels
from softtargets.tasks.classification.labelled_texts import LabelledText

_BEYOND_ANY_MODEL = 1 << 30
"""transformers has a larger number where a tokenizer does not say how many tokens a model reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedText:
    """The L tokens of a text, or of a pair."""

    input_ids_L: Int32
    token_types_L: Int32
    """Which text each is of; zeros where the model is not told."""
    is_text_L: Bool
    """Which are of a text, and not added around it."""
    words_L: Int32
    """Which word each is of; -1 of those that are of none, or not the first of theirs."""
    num_truncated: int
    """Tokens that the end of the text would have had."""

    def __len__(self) -> int:
        return len(self.input_ids_L)


class ClassTokenizer(TransformersTokenizer):
    """A classifier's tokenizer, and what the model knows of its own input and answers.

    Args:
        directory: of the model.
        labels: its classes.
        convention: what a target of it is about.
        num_positions: how many tokens it reads at most; None for any number.
        trust_remote_code: whether code that comes with the model is run.
    """

    def __init__(
        self,
        directory: Path,
        *,
        labels: ClassLabels,
        convention: Convention,
        num_positions: int | None,
        trust_remote_code: bool,
    ) -> None:
        super().__init__(directory, trust_remote_code=trust_remote_code)
        self.labels, self.convention = labels, convention
        self._num_positions = num_positions

    def most_tokens(self, sequence_length: int) -> int:
        """Return how many tokens of a text are read if so many are asked for."""
        of_tokenizer = min(self._tokenizer.model_max_length, _BEYOND_ANY_MODEL)
        return int(min(sequence_length, of_tokenizer, self._num_positions or _BEYOND_ANY_MODEL))

    @property
    def pad_token_id(self) -> int | None:
        """Return the id that pads texts, if there is one."""
        found: int | None = self._tokenizer.pad_token_id
        return found

    @cached_property
    def tells_types(self) -> dict[bool, bool]:
        """Return whether token types say anything, of pairs (True) and of single texts."""
        if "token_type_ids" not in self._tokenizer.model_input_names:
            return {True: False, False: False}
        found = {}
        for is_pair in (True, False):
            texts = ["a", "b"] if is_pair else ["a"]
            found[is_pair] = any(self._tokenizer(*texts)["token_type_ids"])
        return found

    def encode_texts(self, texts: Sequence[LabelledText], most_tokens: int) -> list[EncodedText]:
        """Return the tokens of texts that are all alike: in words or not, pairs or not.

        Raises:
            TeacherError: texts come in words, and the tokenizer cannot say what became of them.
        """
        full = self._encode(texts)
        found = [self._encoded(full, row, 0) for row in range(len(texts))]
        long = [row for row, one in enumerate(found) if len(one) > most_tokens]
        if long:
            cut = self._encode(
                [texts[row] for row in long], truncation=True, max_length=most_tokens
            )
            for place, row in enumerate(long):
                num_kept = len(cut["input_ids"][place])
                found[row] = self._encoded(cut, place, len(found[row]) - num_kept)
        return found

    def _encode(self, texts: Sequence[LabelledText], **cut: Any) -> Any:
        has_words, is_pair = texts[0].words is not None, texts[0].pair is not None
        if has_words and not self._tokenizer.is_fast:
            raise TeacherError(
                "the teacher's tokenizer",
                expected="a fast one, which says which word each token is of",
                found=type(self._tokenizer).__name__,
                next_step="Pass texts instead of lists of words, or save a fast tokenizer.",
            )
        content: Any = [one.words if has_words else one.content for one in texts]
        pairs: Any = [one.pair.split() if has_words else one.pair for one in texts if one.pair]
        return self._tokenizer(
            [list(one) for one in content] if has_words else content,
            pairs if is_pair else None,
            is_split_into_words=has_words,
            return_attention_mask=False,
            return_token_type_ids=True,
            return_special_tokens_mask=True,
            verbose=False,
            **cut,
        )

    def _encoded(self, found: Any, row: int, num_truncated: int) -> EncodedText:
        ids_L = np.array(found["input_ids"][row], np.int32)
        words_L = np.full(len(ids_L), -1, np.int32)
        if self._tokenizer.is_fast:
            words = found.word_ids(row)
            of_first = found.sequence_ids(row)
            seen: set[int] = set()
            for place, word in enumerate(words):
                if word is not None and of_first[place] == 0 and word not in seen:
                    seen.add(word)
                    words_L[place] = word
        return EncodedText(
            input_ids_L=ids_L,
            token_types_L=np.array(found["token_type_ids"][row], np.int32),
            is_text_L=~np.array(found["special_tokens_mask"][row], np.bool_),
            words_L=words_L,
            num_truncated=num_truncated,
        )
