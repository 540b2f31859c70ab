"""What an encoder-decoder makes of pairs: the ids of source and target, as many as fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softtargets.capture.teacher_tokenizer import TransformersTokenizer
from softtargets.errors import TeacherError
from softtargets.targets import Int32
from softtargets.tasks.seq2seq.languages import Languages

_BEYOND_ANY_MODEL = 1 << 30
"""transformers has a larger number where a tokenizer does not say how many tokens a model reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPair:
    """The ids of a pair."""

    source_M: Int32
    """As the encoder reads them."""
    target_L: Int32
    """As the decoder reads them: the token it begins with, and the target to its end."""
    num_source: int
    """How many tokens the source has, with those that were cut off."""
    num_target: int


class PairTokenizer(TransformersTokenizer):
    """The tokenizer of an encoder-decoder, and what the model knows of its own input.

    Args:
        directory: of the model.
        start_id: what its decoder begins with.
        num_positions: how many tokens it reads at most; None for any number.
        trust_remote_code: whether code that comes with the model is run.
    """

    def __init__(
        self,
        directory: Path,
        *,
        start_id: int,
        num_positions: int | None,
        trust_remote_code: bool,
    ) -> None:
        super().__init__(directory, trust_remote_code=trust_remote_code)
        self._start_id, self._num_positions = start_id, num_positions

    def most_tokens(self, sequence_length: int) -> int:
        """Return how many tokens of a text are read if so many are asked for."""
        of_tokenizer = min(self._tokenizer.model_max_length, _BEYOND_ANY_MODEL)
        return int(min(sequence_length, of_tokenizer, self._num_positions or _BEYOND_ANY_MODEL))

    def set_languages(self, languages: Languages) -> None:
        """Read and write these languages from now on.

        Raises:
            InputError: the tokenizer does not know them, or does not know which.
        """
        languages.set(self._tokenizer)

    def encode_source(self, text: str) -> Int32:
        """Return all ids of a source."""
        return np.array(self._sources([text])[0], np.int32)

    def encode_pairs(
        self, sources: Sequence[str], targets: Sequence[str], most_tokens: int
    ) -> list[EncodedPair]:
        """Return the ids of pairs; of longer ones the end of the text is left out.

        Raises:
            TeacherError: the tokenizer puts no token after a target that ends it, so that no
                student would learn where to end.
        """
        read = self._fitting(list(sources), most_tokens, self._sources)
        # The decoder reads its start token before them.
        written = self._fitting(list(targets), most_tokens - 1, self._targets)
        pairs = []
        for (source_M, num_source), (target_L, num_target) in zip(read, written, strict=True):
            if len(target_L) and self.end_of_text_id not in target_L[-2:]:
                raise TeacherError(
                    "the teacher's tokenizer",
                    expected="one that ends a target with the token that ends a text",
                    found="one that does not",
                    next_step="Give it a post-processor that adds eos_token, and save it again.",
                )
            pairs.append(
                EncodedPair(
                    source_M=source_M,
                    target_L=np.insert(target_L, 0, self._start_id),
                    num_source=num_source,
                    num_target=num_target + 1,
                )
            )
        return pairs

    def language_ids(self) -> list[int]:
        """Return what a target begins with that says its language; nothing with one language."""
        if not hasattr(self._tokenizer, "tgt_lang"):
            return []
        ids: list[int] = self._targets([""])[0]
        return [one for one in ids[:1] if one != self.end_of_text_id]

    def _fitting(self, texts: list[str], most_tokens: int, encode: Any) -> list[tuple[Int32, int]]:
        full = encode(texts)
        found = [(np.array(ids, np.int32), len(ids)) for ids in full]
        long = [place for place, ids in enumerate(full) if len(ids) > most_tokens]
        if long:
            cut = encode([texts[place] for place in long], truncation=True, max_length=most_tokens)
            for place, ids in zip(long, cut, strict=True):
                found[place] = np.array(ids, np.int32), len(full[place])
        return found

    def _sources(self, texts: list[str], **cut: Any) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(
            texts, return_attention_mask=False, verbose=False, **cut
        )["input_ids"]
        return ids

    def _targets(self, texts: list[str], **cut: Any) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(
            text_target=texts, return_attention_mask=False, verbose=False, **cut
        )["input_ids"]
        return ids
