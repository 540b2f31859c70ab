"""What a build would take, from reading the whole corpus and scoring a sample of its windows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from softtargets.capture.build import BuildConfig, describe_build, read_output_head
from softtargets.capture.plan import SOME_WINDOW, read_windows
from softtargets.capture.score import Scorer, pack_windows
from softtargets.capture.teacher import Teacher
from softtargets.capture.windows import COUNTS
from softtargets.errors import CorpusError, InputError
from softtargets.kinds import TargetSchema
from softtargets.store.manifest import fingerprint_of
from softtargets.store.shard import encode_shard
from softtargets.window import TokenWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The size of a build that is not begun, and how long it takes on this machine."""

    fingerprint: str
    """That of the store which the same options would build."""
    corpus: dict[str, int]
    """Counts of documents, windows, tokens, and of what would be left out."""
    num_units: int
    sample_windows: int
    sample_tokens: int
    bytes_per_token: float
    """Size of the sample's shard."""
    head_bytes: int
    """Size of the teacher's output head, if it is stored."""
    tokens_per_second: float
    """Of scoring, packing and encoding the sample; without what loads the teacher."""
    online_tokens_per_second: float
    """Of the teacher's forward pass alone, over the same windows: what a student that is trained
    with the teacher beside it pays in every epoch."""

    @property
    def num_bytes(self) -> float:
        """Return the size of the store."""
        return self.bytes_per_token * self.corpus["tokens"] + self.head_bytes

    @property
    def hours(self) -> float:
        """Return how long the build takes."""
        return self.corpus["tokens"] / self.tokens_per_second / 3600

    @property
    def online_hours(self) -> float:
        """Return how long the teacher runs in one epoch of one student trained online."""
        return self.corpus["tokens"] / self.online_tokens_per_second / 3600

    @property
    def break_even_epochs(self) -> float:
        """Return how many epochs of students, all together, cost as much online as the build."""
        return self.hours / self.online_hours


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSample:
    """What a corpus would be cut into, and some of its windows."""

    counts: dict[str, int]
    """Documents, windows, tokens, and what would be left out."""
    num_units: int
    windows: list[TokenWindow]
    """Each window of the corpus is among them with the same probability."""


def estimate(
    config: BuildConfig, teacher: Teacher, *, sample_windows: int = 16, seed: int = 0
) -> Estimate:
    """Read the corpus, score a random sample of its windows, and write nothing.

    Raises:
        InputError: an option is out of range.
        CorpusError, TeacherError: the input or the model is wrong.
    """
    return estimate_from(config, teacher, sample_corpus(config, teacher, sample_windows, seed))


def estimate_from(config: BuildConfig, teacher: Teacher, corpus: CorpusSample) -> Estimate:
    """Return the estimate from a sample of the corpus that was read before.

    Raises:
        InputError: an option is out of range.
        CorpusError, TeacherError: a file or the model cannot be read or run.
    """
    identity = describe_build(config, teacher, read_output_head(config, teacher))
    sample = corpus.windows
    targets = TargetSchema.from_dict(identity["targets"])
    teacher.load()
    scorer = Scorer(teacher, config.selection, targets, config.batch_tokens)
    # What is done for the first time takes longer.
    list(scorer.score(sample[:1]))
    started = time.perf_counter()
    windows = pack_windows(sample, scorer.score(sample), targets)
    content, _ = encode_shard(
        windows, targets, fingerprint_of(identity), 0, compression=config.compression, run={}
    )
    seconds = time.perf_counter() - started
    online_seconds = _time_forward(teacher, sample)
    num_tokens = sum(len(window) for window in sample)
    return Estimate(
        fingerprint=fingerprint_of(identity),
        corpus=corpus.counts,
        num_units=corpus.num_units,
        sample_windows=len(sample),
        sample_tokens=num_tokens,
        bytes_per_token=len(content) / num_tokens,
        head_bytes=0
        if targets.output_head is None
        else targets.vocab_size * targets.features[0].vector_bytes,
        tokens_per_second=num_tokens / seconds,
        online_tokens_per_second=num_tokens / online_seconds,
    )


def sample_corpus(
    config: BuildConfig, teacher: Teacher, num_windows: int = 16, seed: int = 0
) -> CorpusSample:
    """Read a corpus and keep a random sample of its windows (reservoir sampling).

    Raises:
        InputError: no window is asked for.
        CorpusError: the input is wrong.
    """
    if num_windows < 1:
        raise InputError(
            "--sample",
            expected="a positive number of windows",
            found=str(num_windows),
            next_step="16 tell enough.",
        )
    rng = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    sample: list[TokenWindow] = []
    num_units = tokens = 0
    windows = read_windows(config.corpus, config.windowing, teacher.tokenizer, counts)
    for number, window in enumerate(windows):
        num_units += tokens == 0
        tokens += len(window)
        if tokens >= config.unit_tokens:
            tokens = 0
        if number < num_windows:
            sample.append(window)
        elif (place := int(rng.integers(number + 1))) < num_windows:
            sample[place] = window
    if not sample:
        raise CorpusError(
            config.corpus.name,
            expected=SOME_WINDOW,
            found=f"{counts['documents']} documents, none with that many",
            next_step="Check the input and --text-field.",
        )
    return CorpusSample(
        counts={name: counts[name] for name in COUNTS}, num_units=num_units, windows=sample
    )


@torch.inference_mode()
def _time_forward(teacher: Teacher, sample: Sequence[TokenWindow]) -> float:
    """Return the seconds of the forward pass over the sample, a window at a time."""

    def run(window: TokenWindow) -> Any:
        ids_1L = torch.from_numpy(window.input_ids_L.astype("int64"))[None].to(teacher.device)
        return teacher.logits(teacher.hidden_states(ids_1L)[0])

    run(sample[0])
    started = time.perf_counter()
    for window in sample:
        logits_LV = run(window)
    # Copying one number waits for the device.
    float(logits_LV[0, 0])
    return time.perf_counter() - started
