"""An engine against the same model in transformers, on a few windows of the build.

Shapes: N targets of a window, C of them in a chunk, K entries, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from softtargets.capture.build_config import BuildConfig
from softtargets.capture.keep.logit_chunks import COMPARING
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Keep, TopK
from softtargets.capture.memory import free_memory
from softtargets.capture.score import check_selected
from softtargets.capture.segments import Segment
from softtargets.capture.stored_weights import ready_here
from softtargets.capture.teacher import Teacher
from softtargets.capture.teachers.local import LocalTeacher, check_local
from softtargets.errors import InputError, TeacherError
from softtargets.store.drift import Drift, Gap
from softtargets.window import TokenWindow

MOST_WINDOWS = 16
_MOST_TOKENS = 4096
_ENTRIES = 8
_LEAST_AGREEMENT = 0.5
"""Share of the positions at which the likeliest id must be the same.

SmolLM2 with weights of four bits and the same at eight agree at nine of ten; with positions that
are shifted by one, hardly anything agrees.
"""


def calibration_windows(windows: Sequence[TokenWindow]) -> Sequence[TokenWindow]:
    """Return some windows of a unit, evenly spread; at least one."""
    spread = windows[:: max(1, len(windows) // MOST_WINDOWS)][:MOST_WINDOWS]
    num_tokens = np.cumsum([len(window) for window in spread])
    return spread[: max(1, int(np.searchsorted(num_tokens, _MOST_TOKENS, side="right")))]


def find_drift(config: BuildConfig, teacher: Teacher, windows: Sequence[TokenWindow]) -> Drift:
    """Return how far a teacher is from `config.reference`, on some windows of a unit.

    Raises:
        InputError: the reference has another vocabulary, or no logits of it.
        TeacherError: one of the two cannot be loaded, or they are not the same model.
    """
    assert config.reference is not None
    task = config.capture_task
    reference = check_local(task.teacher(config.reference), "--reference")
    loaded = ready_here(config, teacher)
    reference.load()
    drift = measure_drift(loaded, reference, calibration_windows(windows), task.segments)
    devices = {loaded.device, reference.device}
    # The build, or its workers, need the memory that these had.
    del loaded, reference
    for device in devices:
        free_memory(device)
    return drift


def measure_drift(
    teacher: Teacher,
    reference: LocalTeacher,
    windows: Sequence[TokenWindow],
    cut: Callable[..., list[Segment]],
) -> Drift:
    """Return how far a teacher's numbers are from those of a reference; both are loaded.

    Args:
        teacher: of an engine.
        reference: the same model in transformers.
        windows: that both read.
        cut: makes segments of windows, as `CaptureTask.segments` does.

    Raises:
        InputError: the two do not have the same vocabulary.
        TeacherError: they agree so little that they are not the same model, or do not read the
            same positions; or numbers are not finite.
    """
    _check_vocabularies(teacher, reference)
    most = teacher.abilities.largest_k or _ENTRIES
    k = min(_ENTRIES, most, teacher.vocab_size)
    keep = Keep(selection=TopK(k=k), temperatures=(1.0,), label_logits=False)
    found = _Gaps()
    for window in windows:
        segments = cut(window)
        selected = teacher.capture(segments, keep)
        check_selected(selected, segments)
        found.add(selected, reference, segments)
    drift = found.drift(reference, len(windows), has_logits=teacher.abilities.full_logits)
    if drift.top1 < _LEAST_AGREEMENT:
        raise TeacherError(
            teacher.name,
            expected=f"the likeliest id of {reference.name} in transformers at more than "
            f"{_LEAST_AGREEMENT:.0%} of the positions",
            found=f"{drift.top1:.0%}",
            next_step="Pass the same model with --reference. If it is the same, the engine reads "
            "other positions or other tokens, and its targets would be wrong.",
        )
    return drift


@dataclass(slots=True)
class _Gaps:
    """Differences at each position."""

    logprobs_N: list[np.ndarray] = field(default_factory=list)
    logits_N: list[np.ndarray] = field(default_factory=list)
    logsumexp_N: list[np.ndarray] = field(default_factory=list)
    is_top_N: list[np.ndarray] = field(default_factory=list)

    def add(self, own: Selected, reference: LocalTeacher, segments: Sequence[Segment]) -> None:
        """Compare what a teacher gave for segments with the logits of a reference."""
        kept_NK = own.logits_NK > -torch.inf
        logits_NK = own.logits_NK.double()
        # What the entries sum to is all but the tail.
        own_lse_N = logits_NK.logsumexp(dim=1) - torch.log1p(-own.tail_mass_NG[:, 0].double())
        for rows, chunk_CV in reference.chunks(reference.read(segments), COMPARING):
            logits_CV = chunk_CV.cpu().double()
            if not torch.isfinite(logits_CV.logsumexp(dim=1)).all():
                raise TeacherError(
                    reference.name,
                    expected="logits that are numbers",
                    found="some that are not",
                    next_step="Try --dtype float32, or check the reference's weights.",
                )
            lse_C = logits_CV.logsumexp(dim=1)
            apart_CK = logits_NK[rows] - logits_CV.gather(1, own.ids_NK[rows].long())
            apart_lse_C = own_lse_N[rows] - lse_C
            self.logits_N.append(_largest(apart_CK, kept_NK[rows]))
            self.logprobs_N.append(_largest(apart_CK - apart_lse_C[:, None], kept_NK[rows]))
            self.logsumexp_N.append(apart_lse_C.abs().numpy())
            self.is_top_N.append((logits_CV.argmax(dim=1) == own.ids_NK[rows][:, 0]).numpy())

    def drift(self, reference: LocalTeacher, num_windows: int, *, has_logits: bool) -> Drift:
        """Return all of it together."""
        return Drift(
            reference=reference.describe(),
            windows=num_windows,
            positions=sum(map(len, self.is_top_N)),
            top1=float(np.concatenate(self.is_top_N).mean()),
            logprobs=_gap(self.logprobs_N),
            logits=_gap(self.logits_N) if has_logits else None,
            logsumexp=_gap(self.logsumexp_N) if has_logits else None,
        )


def _largest(apart_CK: torch.Tensor, kept_CK: torch.Tensor) -> np.ndarray:
    return apart_CK.abs().masked_fill(~kept_CK, 0).amax(dim=1).numpy()


def _gap(apart_N: Sequence[np.ndarray]) -> Gap:
    together = np.concatenate(apart_N)
    return Gap(mean=float(together.mean()), largest=float(together.max()))


def _check_vocabularies(teacher: Teacher, reference: LocalTeacher) -> None:
    own, other = teacher.tokenizer.vocabulary(), reference.tokenizer.vocabulary()
    is_same = np.array_equal(own.ids_N, other.ids_N) and own.tokens == other.tokens
    if not is_same or reference.vocab_size < teacher.vocab_size:
        raise InputError(
            "--reference",
            expected=f"the model of --teacher, whose tokenizer knows {len(own):,} tokens, with at "
            f"least {teacher.vocab_size:,} outputs",
            found=f"{reference.name}, with {len(other):,} tokens"
            f"{'' if is_same else ', other ones'}, and {reference.vocab_size:,} outputs",
            next_step="Pass the directory or the id of the same model.",
        )
