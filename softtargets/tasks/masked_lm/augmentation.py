"""Copies of texts with words that a masked language model would put in their place.

As in TinyBERT (Jiao et al. 2020, algorithm 1), a word is replaced with probability p by one of the
words that the model thinks likeliest there. Words of several tokens stay as they are: the paper
takes theirs from word vectors, which a model does not have.

Which words are replaced, and by what, is a function of the text, the seed and the number of the
copy. Shapes: W words of a text, K candidates of each, L tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from softtargets.capture.teachers.model_files import TeacherConfig
from softtargets.errors import InputError
from softtargets.tasks.masked_lm.masked_teacher import MaskedTeacher
from softtargets.tasks.masked_lm.masked_windows import word_starts

_MOST_ROWS = 32
"""Words that are masked in one forward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How texts are changed."""

    copies: int = 20
    probability: float = 0.4
    """With which each word is replaced."""
    candidates: int = 15
    """The likeliest words, of which one is drawn."""
    seed: int = 0

    def check(self) -> None:
        """Check that the options are in range.

        Raises:
            InputError: one is not.
        """
        for option, expected, found, holds in (
            ("--copies", "a positive number", self.copies, self.copies > 0),
            ("--probability", "from 0 to 1", self.probability, 0 <= self.probability <= 1),
            ("--candidates", "a positive number", self.candidates, self.candidates > 0),
            ("--seed", "from 0 to 2^53 - 1", self.seed, 0 <= self.seed < 1 << 53),
        ):
            if not holds:
                raise InputError(option, expected=expected, found=f"{found}", next_step="Omit it.")


class Augmenter:
    """Makes copies of texts.

    Args:
        teacher: a masked language model.
        options: how.

    Raises:
        InputError: an option is out of range, or the model's tokenizer has no mask token.
        TeacherError: the model cannot be loaded.
    """

    def __init__(self, teacher: MaskedTeacher, options: Augmentation) -> None:
        options.check()
        self._teacher, self._options = teacher, options
        special = teacher.tokenizer.special_ids()
        if special.mask is None:
            raise InputError(
                "tokenizer",
                expected="one with a mask token, which stands for what is to be replaced",
                found="one without",
                next_step="Pass a masked language model with --teacher.",
            )
        self._mask = special.mask
        teacher.load()
        vocabulary = teacher.tokenizer.vocabulary()
        starts_W = word_starts(vocabulary, teacher.vocab_size)
        self._texts: dict[int, str] = {}
        for token_id, utf8 in zip(vocabulary.ids_N.tolist(), vocabulary.utf8, strict=True):
            text = "" if utf8 is None else utf8.decode("utf-8", "replace").strip()
            if token_id < len(starts_W) and starts_W[token_id] and text.isalpha():
                self._texts[token_id] = text
        is_word_V = torch.zeros(teacher.vocab_size, dtype=torch.bool)
        is_word_V[[one for one in self._texts if one not in special.every]] = True
        self._is_word_V = is_word_V.to(teacher.device)

    @classmethod
    def of(cls, config: TeacherConfig, options: Augmentation) -> Augmenter:
        """Return what makes copies by a model of transformers.

        Raises:
            InputError, TeacherError: as of the class.
        """
        options.check()
        return cls(MaskedTeacher(config), options)

    def copies(self, text: str) -> Iterator[str]:
        """Yield the copies of a text."""
        ids, words = self._teacher.tokenizer.encode_words(text, self._teacher.longest_sequence)
        candidates = self._candidates(ids, [place for place, _, _ in words])
        content = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
        for copy in range(self._options.copies):
            philox = np.random.Philox(key=content, counter=[0, 0, copy, self._options.seed])
            yield self._replaced(text, words, candidates, np.random.Generator(philox))

    def _replaced(
        self,
        text: str,
        words: list[tuple[int, int, int]],
        candidates: list[list[str]],
        rng: np.random.Generator,
    ) -> str:
        parts, end = [], 0
        draws_W2 = rng.random((len(words), 2))
        for (_, start, stop), own, (chance, which) in zip(words, candidates, draws_W2, strict=True):
            if own and chance < self._options.probability:
                parts += [text[end:start], own[int(which * len(own))]]
                end = stop
        return "".join([*parts, text[end:]])

    @torch.inference_mode()
    def _candidates(self, ids: list[int], places: list[int]) -> list[list[str]]:
        """Return the likeliest words in place of some tokens, but for what stands there."""
        found: list[list[str]] = []
        teacher, read_L = self._teacher, torch.tensor(ids, device=self._teacher.device)
        for start in range(0, len(places), _MOST_ROWS):
            own = torch.tensor(places[start : start + _MOST_ROWS], device=read_L.device)
            rows = torch.arange(len(own), device=read_L.device)
            masked = read_L.repeat(len(own), 1)
            masked[rows, own] = self._mask
            logits_WV = teacher.logits(teacher.hidden_states(masked)[rows, own]).float()
            logits_WV = logits_WV.masked_fill(~self._is_word_V, -torch.inf)
            logits_WV[rows, read_L[own]] = -torch.inf
            number = min(self._options.candidates, logits_WV.shape[1])
            top = logits_WV.topk(number, dim=1)
            for values_K, ids_K in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                pairs = zip(values_K, ids_K, strict=True)
                found.append([self._texts[one] for value, one in pairs if value > -np.inf])
        return found
