"""Token windows to windows with soft targets: batches, the teacher's forward pass, selection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from softtargets.capture.draws import uniforms
from softtargets.capture.memory import enough_memory, free_memory, is_out_of_memory
from softtargets.capture.segments import (
    Segment,
    hidden_states,
    name_documents,
    name_segments,
    segments_of,
)
from softtargets.capture.select import select
from softtargets.capture.selected import Selected
from softtargets.capture.selection import Selection
from softtargets.capture.teacher import Teacher
from softtargets.errors import InputError, TeacherError
from softtargets.kinds import TargetSchema
from softtargets.targets import PackedTargets, pack
from softtargets.window import TokenWindow, Window

_HEAD_ELEMENTS = {"cpu": 1 << 24}
"""Logits the head makes at once: enough for its matrix product to be efficient."""
_SELECT_ELEMENTS = {"cpu": 1 << 22}
"""Logits selected from at once, in float32: on a CPU 16 MB, which stays near its caches."""
_DEVICE_ELEMENTS = 1 << 27
"""Both on other devices, where a launch costs more than a larger tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """Segments of a batch with their targets one after another, on the host."""

    places: Sequence[int]
    """Where the segments stand in `segments_of` all windows."""
    segments: Sequence[Segment]
    selected: Selected

    @property
    def num_first(self) -> int:
        """Return how many windows begin in this batch."""
        return sum(segment.start == 0 for segment in self.segments)

    @property
    def num_tokens(self) -> int:
        """Return how many tokens were read, without padding."""
        return sum(len(segment) for segment in self.segments)

    def rows(self) -> Iterator[tuple[int, Selected]]:
        """Yield every segment's place and its targets."""
        start = 0
        for place, segment in zip(self.places, self.segments, strict=True):
            stop = start + len(segment.positions_T)
            yield place, self.selected.slice(start, stop)
            start = stop


def pack_windows(
    windows: Sequence[TokenWindow], batches: Iterable[ScoredBatch], targets: TargetSchema
) -> list[Window]:
    """Return windows with their targets, from all batches that they were scored in.

    Raises:
        TeacherError: logits are too far apart to be stored; the message names the documents.
    """
    scored = dict(rows for batch in batches for rows in batch.rows())
    packed = []
    at = 0
    for window in windows:
        stop = at + len(window.segment_lengths_S)
        own = Selected.concatenate([scored[place] for place in range(at, stop)])
        packed.append(Window.of(window, _pack(window, own, targets)))
        at = stop
    return packed


def _pack(window: TokenWindow, selected: Selected, targets: TargetSchema) -> PackedTargets:
    try:
        return pack(selected.numpy(targets), targets)
    except InputError as error:
        raise TeacherError(
            f"{error.where} of {name_documents([window])}",
            expected=error.expected,
            found=error.found,
            next_step="Pass --values float32, which keeps logits as they are.",
        ) from error


class Scorer:
    """Runs a teacher over windows in batches of at most `batch_tokens` tokens, padding included.

    When the device's memory does not suffice, the number is halved and stays so: targets then
    differ by rounding noise only.
    """

    def __init__(
        self, teacher: Teacher, selection: Selection, targets: TargetSchema, batch_tokens: int
    ) -> None:
        self.batch_tokens = batch_tokens
        self._teacher = teacher
        self._selection = selection
        self._targets = targets
        kind = teacher.device.type
        self._head_rows = max(1, _HEAD_ELEMENTS.get(kind, _DEVICE_ELEMENTS) // teacher.vocab_size)
        self._select_rows = max(
            1, _SELECT_ELEMENTS.get(kind, _DEVICE_ELEMENTS) // teacher.vocab_size
        )
        self._workspace: list[torch.Tensor] = []

    def score(self, windows: Sequence[TokenWindow]) -> Iterator[ScoredBatch]:
        """Yield their segments in batches of like length, longest first: little is padded.

        Raises:
            TeacherError: a single segment does not fit the device's memory, has ids that the
                teacher does not know, or gets logits that are no numbers; the message names it.
        """
        segments = [segment for window in windows for segment in segments_of(window)]
        left = list(range(len(segments)))
        while left:
            lengths = [len(segments[place]) for place in left]
            batches = plan_batches(lengths, self.batch_tokens)
            done: set[int] = set()
            for batch in batches:
                places = [left[index] for index in batch]
                members = [segments[place] for place in places]
                selected = self._try_batch(members)
                if selected is None:
                    self._use_less_memory(members)
                    break
                done.update(places)
                yield ScoredBatch(places=places, segments=members, selected=selected)
            left = [place for place in left if place not in done]

    def _try_batch(self, segments: Sequence[Segment]) -> Selected | None:
        """Return the targets of a batch, or None if the device's memory suffices for fewer only."""
        if len(segments) == 1:
            where = f"{name_segments(segments)}, {len(segments[0]):,} tokens"
            next_step = "Pass a smaller --sequence-length, or another --device."
            with enough_memory(where, "one of them", self._teacher.device, next_step):
                return self._score_batch(segments)
        try:
            return self._score_batch(segments)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _use_less_memory(self, members: Sequence[Segment]) -> None:
        self._workspace = []
        free_memory(self._teacher.device)
        self.batch_tokens = max(1, len(members) * len(members[0]) // 2)

    @torch.inference_mode()
    def _score_batch(self, segments: Sequence[Segment]) -> Selected:
        """Return the targets of all segments of a batch, one after another, on the host.

        There they wait for the end of their unit, and not in the device's memory. The copy waits
        for the device, which takes no time beside the batch.
        """
        teacher, device = self._teacher, self._teacher.device
        hidden_ND = hidden_states(teacher, segments)
        labels = np.concatenate([segment.label_ids_T for segment in segments])
        labels_N = torch.from_numpy(labels.astype(np.int64)).to(device)
        uniforms_ND = self._uniforms(segments)
        parts = []
        for start in range(0, len(hidden_ND), self._head_rows):
            logits_HV = teacher.logits(hidden_ND[start : start + self._head_rows])
            for at in range(0, len(logits_HV), self._select_rows):
                logits_CV, scratch_CV = self._own(logits_HV[at : at + self._select_rows])
                chosen = slice(start + at, start + at + len(logits_CV))
                parts.append(
                    select(
                        logits_CV,
                        labels_N[chosen],
                        self._selection,
                        self._targets.temperatures,
                        uniforms_ND=None if uniforms_ND is None else uniforms_ND[chosen],
                        label_logits=self._targets.label_logits,
                        scratch_NV=scratch_CV,
                    )
                )
        selected = Selected.concatenate(parts)
        if self._targets.output_head is not None:
            selected = replace(selected, hidden_ND=hidden_ND)
        selected = selected.cpu()
        selected.check(lambda rows: _name_rows(segments, rows))
        return selected

    def _uniforms(self, segments: Sequence[Segment]) -> torch.Tensor | None:
        """Return the numbers [N, D] that decide what is drawn; None when nothing is."""
        draws = self._selection.draws
        if draws is None:
            return None
        parts = [
            uniforms(one.window.window_id, one.start, len(one.label_ids_T), draws.num, draws.seed)
            for one in segments
        ]
        found = torch.from_numpy(np.concatenate(parts))
        if self._teacher.device.type == "mps":  # It has no float64.
            found = found.float()
        return found.to(self._teacher.device)

    def _own(self, logits_CV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return float32 logits that may be overwritten, and scratch memory if ids are drawn.

        Both are always the same memory. A new tensor of this size costs as much time as the
        selection itself: the system maps its pages one by one.
        """
        draws = self._selection.draws is not None
        if not self._workspace:
            shape = (self._select_rows, logits_CV.shape[1])
            self._workspace = [
                torch.empty(shape, dtype=torch.float32, device=logits_CV.device)
                for _ in range(1 + draws)
            ]
        logits, *scratch = (one[: len(logits_CV)] for one in self._workspace)
        return logits.copy_(logits_CV), scratch[0] if scratch else None


def _name_rows(segments: Sequence[Segment], rows: Sequence[int]) -> str:
    """Return the documents that some of a batch's positions are of, for a message."""
    ends = np.cumsum([len(segment.positions_T) for segment in segments])
    places = np.unique(np.searchsorted(ends, rows, side="right"))
    return name_segments([segments[place] for place in places])


MOST_PADDING = 0.05
"""Share of a batch that may be padding."""


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Return batches of places, longest windows first, none above `batch_tokens` when padded.

    At most a twentieth of a batch is padding. A window longer than `batch_tokens` is a batch by
    itself. A pure function, so that a unit gives the same numbers whoever runs it.
    """
    batches: list[list[int]] = []
    width = num_tokens = 0
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        padded = (len(batches[-1]) + 1) * width if batches else 0
        num_tokens += lengths[place]
        if not 0 < padded <= batch_tokens or padded - num_tokens > MOST_PADDING * padded:
            batches.append([])
            width = num_tokens = lengths[place]
        batches[-1].append(place)
    return batches
