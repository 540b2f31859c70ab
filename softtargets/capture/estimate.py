"""What a build would take, from reading the whole corpus and scoring a sample of its windows.

The teacher reads the sample about three times: a first batch that is not timed, the sample itself,
and its forward pass alone. So by default the sample is a small share of the corpus.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from softtargets.capture.build_config import BuildConfig
from softtargets.capture.corpus_sample import CorpusSample, sample_corpus
from softtargets.capture.identity import describe_build
from softtargets.capture.score import ScoredBatch, Scorer, pack_windows
from softtargets.capture.stored_weights import StoredWeights, read_weights
from softtargets.capture.teacher import Teacher
from softtargets.capture.teachers.local import LocalTeacher
from softtargets.capture.unused import UnusedPart
from softtargets.store.fingerprint import fingerprint_of
from softtargets.store.schema import Compression
from softtargets.store.shard import encode_shard
from softtargets.targets import TargetSchema
from softtargets.window import TokenWindow, Window, cut_windows

_MOST_SPEEDS = 4
"""Parts of the sample whose speeds are compared: very small ones would say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The size of a build that is not begun, and how long it takes on this machine."""

    fingerprint: str
    """That of the store which the same options would build."""
    corpus: dict[str, int]
    """Counts of documents, windows, tokens, and of what would be left out."""
    num_units: int
    num_targets: int
    """Of the whole corpus."""
    sample_windows: int
    sample_tokens: int
    bytes_per_token: float
    """Size of the sample's rows, as `shard_size` has it."""
    footer_bytes: int
    """Size of the footers of all shards."""
    head_bytes: int
    """Size of the teacher's output head, if it is stored."""
    tokens_per_second: float
    """Of scoring, packing and encoding the sample; without what loads the teacher, and without a
    first batch, which takes longer."""
    slowest_tokens_per_second: float
    fastest_tokens_per_second: float
    """Of parts of the sample."""
    online_tokens_per_second: float
    """Of the teacher's forward pass alone, over the same windows: what a student that is trained
    with the teacher beside it pays in every epoch. Of capturing where the pass is not to be had."""
    unused: tuple[UnusedPart, ...] = ()
    """What the chat template does not write of the conversations."""

    @property
    def num_bytes(self) -> float:
        """Return the size of the store."""
        rows = self.bytes_per_token * self.corpus["tokens"]
        return rows + self.footer_bytes + self.head_bytes

    @property
    def bytes_per_target(self) -> float:
        """Return the size of the rows for each target, where `bytes_per_token` has each token."""
        return self.bytes_per_token * self.corpus["tokens"] / self.num_targets

    @property
    def hours(self) -> float:
        """Return how long the build takes."""
        return self.corpus["tokens"] / self.tokens_per_second / 3600

    @property
    def least_hours(self) -> float:
        """Return how long it takes at the speed of the fastest part of the sample."""
        return self.corpus["tokens"] / self.fastest_tokens_per_second / 3600

    @property
    def most_hours(self) -> float:
        """Return how long it takes at the speed of the slowest part of the sample."""
        return self.corpus["tokens"] / self.slowest_tokens_per_second / 3600

    @property
    def online_hours(self) -> float:
        """Return how long the teacher runs in one epoch of one student trained online."""
        return self.corpus["tokens"] / self.online_tokens_per_second / 3600

    @property
    def break_even_epochs(self) -> float:
        """Return how many epochs of students, all together, cost as much online as the build."""
        return self.hours / self.online_hours


def estimate(
    config: BuildConfig, teacher: Teacher, *, sample_windows: int | None = None, seed: int = 0
) -> Estimate:
    """Read the corpus, score a random sample of its windows, and write nothing.

    Args:
        config: of the build.
        teacher: that it runs.
        sample_windows: how many are scored; None takes at most 16, and few of a small corpus.
        seed: of the sample.

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
    weights = read_weights(config, teacher)
    identity = describe_build(config, teacher, weights)
    sample = corpus.windows
    targets = TargetSchema.from_dict(identity["targets"])
    teacher.load()
    task = config.capture_task
    scorer = Scorer(teacher, config.selection, targets, config.batch_tokens, task.segments)
    num_tokens = sum(len(window) for window in sample)
    measured = _measure(scorer, sample, targets, config)
    return Estimate(
        fingerprint=fingerprint_of(identity),
        corpus=corpus.counts,
        num_units=corpus.num_units,
        num_targets=corpus.num_targets,
        sample_windows=len(sample),
        sample_tokens=num_tokens,
        bytes_per_token=measured.size.bytes_per_token,
        footer_bytes=measured.size.footer_bytes * corpus.num_units,
        head_bytes=_weight_bytes(targets, weights),
        tokens_per_second=measured.speed,
        slowest_tokens_per_second=min(measured.speeds),
        fastest_tokens_per_second=max(measured.speeds),
        online_tokens_per_second=num_tokens / _time_forward(teacher, sample)
        if isinstance(teacher, LocalTeacher)
        else measured.speed,
        unused=corpus.unused,
    )


def _weight_bytes(targets: TargetSchema, weights: StoredWeights) -> int:
    """Return what output head and layers take, whatever the number of windows."""
    head, layers = targets.output_head, weights.layers
    of_head = 0 if head is None else targets.vocab_size * targets.features[0].vector_bytes
    return of_head + sum(one.nbytes for one in ({} if layers is None else layers.tensors).values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSize:
    """How large a shard of some windows is."""

    bytes_per_token: float
    """Of its rows, every column of them."""
    footer_bytes: int
    """A shard of the default size has one for many times as many windows as a sample has."""


def shard_size(windows: Sequence[Window], compression: Compression = "zstd") -> ShardSize:
    """Return the size of some windows in a shard."""
    schema = windows[0].packed.schema
    _, entry = encode_shard(windows, schema, "0" * 64, 0, compression=compression, run={})
    num_bytes = sum(row_group.num_bytes for row_group in entry.row_groups)
    num_tokens = sum(len(window) for window in windows)
    return ShardSize(bytes_per_token=num_bytes / num_tokens, footer_bytes=entry.footer_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """What a sample takes, in bytes and in time."""

    size: ShardSize
    speed: float
    """Tokens per second."""
    speeds: Sequence[float]
    """Of parts of the sample, two or more."""


def _measure(
    scorer: Scorer, sample: Sequence[TokenWindow], targets: TargetSchema, config: BuildConfig
) -> _Measured:
    """Score, pack and encode a sample, and time it without its first batch, which warms up."""
    list(scorer.score(next(cut_windows(sample, config.batch_tokens))))
    batches, seconds = _time_batches(scorer, sample)
    started = time.perf_counter()
    size = shard_size(pack_windows(sample, batches, targets), config.compression)
    num_tokens = sum(len(window) for window in sample)
    packing_seconds = (time.perf_counter() - started) / num_tokens
    if len(batches) == 1:
        again, more_seconds = _time_batches(scorer, sample)
        batches, seconds = batches + again, seconds + more_seconds
        num_tokens *= 2
    return _Measured(
        size=size,
        speed=1 / (sum(seconds) / num_tokens + packing_seconds),
        speeds=_speeds(batches, seconds, packing_seconds),
    )


def _time_batches(
    scorer: Scorer, sample: Sequence[TokenWindow]
) -> tuple[list[ScoredBatch], list[float]]:
    """Score a sample; return its batches and the seconds that each took."""
    batches, times = [], [time.perf_counter()]
    for batch in scorer.score(sample):
        batches.append(batch)
        times.append(time.perf_counter())
    return batches, np.diff(times).tolist()


def _speeds(
    batches: Sequence[ScoredBatch], seconds: Sequence[float], packing_seconds: float
) -> list[float]:
    """Return tokens per second of parts of what was timed, each of several batches if need be.

    Args:
        batches: what was scored, in order.
        seconds: that each took.
        packing_seconds: what packing and encoding a token takes.
    """
    tokens = [batch.num_tokens for batch in batches]
    part_tokens = sum(tokens) / _MOST_SPEEDS
    # A part ends with the batch that reaches another fourth of the tokens.
    parts = [int(total / part_tokens - 1e-9) for total in accumulate(tokens)]
    speeds = []
    for part in sorted(set(parts)):
        places = [place for place, own in enumerate(parts) if own == part]
        num_tokens = sum(tokens[place] for place in places)
        taken = sum(seconds[place] for place in places) + packing_seconds * num_tokens
        speeds.append(num_tokens / taken)
    return speeds


@torch.inference_mode()
def _time_forward(teacher: LocalTeacher, sample: Sequence[TokenWindow]) -> float:
    """Return the seconds of the forward pass over the sample, a window at a time."""
    # The sample was scored before: nothing is done for the first time.
    started = time.perf_counter()
    for window in sample:
        ids_1L = torch.from_numpy(window.input_ids_L.astype("int64"))[None].to(teacher.device)
        logits_LV = teacher.logits(teacher.hidden_states(ids_1L)[0])
    # Copying one number waits for the device.
    float(logits_LV[0, 0])
    return time.perf_counter() - started
