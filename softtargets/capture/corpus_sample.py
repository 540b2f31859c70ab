"""A random sample of a corpus's windows, and how many there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from softtargets.capture.build_config import BuildConfig
from softtargets.capture.corpus_reading import no_window, read_windows
from softtargets.capture.teacher import Teacher
from softtargets.capture.unused import UnusedPart, UnusedTally
from softtargets.capture.windows import stored_counts
from softtargets.errors import InputError
from softtargets.window import TokenWindow, cut_windows

SAMPLE_WINDOWS = 16
"""Most windows that are sampled unless a number is asked for."""
_SAMPLE_TOKENS = 8192
"""No window more is sampled after so many tokens."""
_SAMPLE_SHARE = 1 / 16
"""Nor after this share of the corpus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSample:
    """What a corpus would be cut into, and some of its windows."""

    counts: dict[str, int]
    """Documents, windows, tokens, and what would be left out."""
    num_units: int
    num_targets: int
    windows: list[TokenWindow]
    """Each window of the corpus is among them with the same probability."""
    first: TokenWindow
    """The first window of the corpus."""
    unused: tuple[UnusedPart, ...]
    """What the chat template does not write of the conversations."""


class _Reservoir:
    """Keeps some of the windows that come unit by unit, each with the same probability."""

    def __init__(self, most: int, rng: np.random.Generator) -> None:
        self.kept: list[TokenWindow] = []
        self.first: TokenWindow | None = None
        self.num_targets = 0
        self._most = most
        self._rng = rng
        self._num_seen = 0

    def add(self, windows: Sequence[TokenWindow]) -> None:
        """Keep each window, or not."""
        for window in windows:
            self.first = self.first or window
            self.num_targets += len(window.mask_T)
            if self._num_seen < self._most:
                self.kept.append(window)
            elif (place := int(self._rng.integers(self._num_seen + 1))) < self._most:
                self.kept[place] = window
            self._num_seen += 1


def sample_corpus(
    config: BuildConfig, teacher: Teacher, num_windows: int | None = None, seed: int = 0
) -> CorpusSample:
    """Read a corpus and keep a random sample of its windows (reservoir sampling).

    Args:
        config: of the build.
        teacher: whose tokenizer reads the corpus.
        num_windows: None takes at most 16, and no more after a sixteenth of the corpus or 8,192
            tokens.
        seed: of the sample.

    Raises:
        InputError: no window is asked for.
        CorpusError: the input is wrong.
    """
    rng = np.random.default_rng(seed)
    reservoir = _Reservoir(_checked(num_windows), rng)
    counts, unused = Counter[str](), UnusedTally()
    num_units = 0
    windows = read_windows(config, teacher.tokenizer, counts, unused)
    for unit in cut_windows(windows, config.unit_tokens):
        num_units += 1
        reservoir.add(unit)
    if reservoir.first is None:
        raise no_window(config.corpus, counts)
    sample = reservoir.kept if num_windows is not None else _few(reservoir.kept, counts, rng)
    return CorpusSample(
        counts=stored_counts(counts),
        num_units=num_units,
        num_targets=reservoir.num_targets,
        windows=sample,
        first=reservoir.first,
        unused=unused.parts,
    )


def _checked(num_windows: int | None) -> int:
    """Return how many windows are sampled at most."""
    if num_windows is None:
        return SAMPLE_WINDOWS
    if num_windows < 1:
        raise InputError(
            "--sample",
            expected="a positive number of windows",
            found=str(num_windows),
            next_step="Omit it to score little.",
        )
    return num_windows


def _few(
    sample: Sequence[TokenWindow], counts: Mapping[str, int], rng: np.random.Generator
) -> list[TokenWindow]:
    """Return as many windows of a sample as tell enough, in random order."""
    mixed = [sample[place] for place in rng.permutation(len(sample))]
    num_tokens = int(min(_SAMPLE_TOKENS, counts["tokens"] * _SAMPLE_SHARE))
    return next(cut_windows(mixed, num_tokens or 1))
