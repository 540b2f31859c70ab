"""Token windows to windows with soft targets: batches, the teacher's forward pass, selection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from softtargets.capture.draws import uniforms
from softtargets.capture.select import select
from softtargets.capture.selected import Selected
from softtargets.capture.selection import Selection
from softtargets.capture.teacher import Teacher
from softtargets.errors import TeacherError
from softtargets.kinds import TargetSchema
from softtargets.packing import pack
from softtargets.targets import Int32
from softtargets.window import TokenWindow, Window

_HEAD_ELEMENTS = {"cpu": 1 << 24}
"""Logits the head makes at once: enough for its matrix product to be efficient."""
_SELECT_ELEMENTS = {"cpu": 1 << 22}
"""Logits selected from at once, in float32: on a CPU 16 MB, which stays near its caches."""
_DEVICE_ELEMENTS = 1 << 27
"""Both on other devices, where a launch costs more than a larger tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A document, or a part of one, in a window: what the teacher reads as one sequence.

    It is read from position 0 and sees nothing else of its window, so documents that share a
    window cannot influence each other, whatever the architecture.
    """

    window: TokenWindow
    start: int
    """Where its first token stands in the window."""
    input_ids_L: Int32
    positions_T: Int32
    """Where in the segment the targets are, rising."""
    label_ids_T: Int32

    def __len__(self) -> int:
        return len(self.input_ids_L)


def segments_of(window: TokenWindow) -> Iterator[Segment]:
    """Yield the segments of a window, in order; their targets together are the window's."""
    positions_T = window.target_positions_T
    ends = np.cumsum(window.segment_lengths_S)
    for start, stop in zip([0, *ends[:-1]], ends, strict=True):
        own_T = positions_T[(positions_T >= start) & (positions_T < stop)]
        yield Segment(
            window=window,
            start=int(start),
            input_ids_L=window.input_ids_L[start:stop],
            positions_T=own_T - start,
            label_ids_T=window.input_ids_L[own_T + 1],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """Segments of a batch with their targets one after another, still on the teacher's device."""

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
        """Yield every segment's place and its targets, on the host.

        Raises:
            TeacherError: the teacher's logits cannot be stored; the message names the documents.
        """
        selected = self.selected.cpu()
        try:
            selected.check()
        except TeacherError as error:
            raise TeacherError(
                f"{error.where} of {name_documents([one.window for one in self.segments])}",
                expected=error.expected,
                found=error.found,
                next_step=error.next_step,
            ) from error
        start = 0
        for place, segment in zip(self.places, self.segments, strict=True):
            stop = start + len(segment.positions_T)
            yield place, selected.slice(start, stop)
            start = stop


def pack_windows(
    windows: Sequence[TokenWindow], batches: Iterable[ScoredBatch], targets: TargetSchema
) -> list[Window]:
    """Return windows with their targets, from all batches that they were scored in.

    Raises:
        TeacherError: the teacher's logits cannot be stored; the message names the documents.
    """
    scored = dict(rows for batch in batches for rows in batch.rows())
    packed = []
    at = 0
    for window in windows:
        stop = at + len(window.segment_lengths_S)
        own = Selected.concatenate([scored[place] for place in range(at, stop)])
        packed.append(Window.of(window, pack(own.numpy(targets), targets)))
        at = stop
    return packed


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
            TeacherError: a single segment does not fit the device's memory.
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
                try:
                    selected = self._score_batch(members)
                except torch.OutOfMemoryError as error:
                    self._use_less_memory(members, error)
                    break
                done.update(places)
                yield ScoredBatch(places=places, segments=members, selected=selected)
            left = [place for place in left if place not in done]

    def _use_less_memory(self, members: Sequence[Segment], error: torch.OutOfMemoryError) -> None:
        if len(members) == 1:
            raise TeacherError(
                f"{name_documents([members[0].window])}, {len(members[0]):,} tokens",
                expected=f"enough memory on {self._teacher.device} for one of them",
                found=str(error).splitlines()[0],
                next_step="Pass a smaller --sequence-length, or another --device.",
            ) from error
        self._workspace = []
        if self._teacher.device.type == "cuda":
            torch.cuda.empty_cache()
        self.batch_tokens = max(1, len(members) * len(members[0]) // 2)

    @torch.inference_mode()
    def _score_batch(self, segments: Sequence[Segment]) -> Selected:
        """Return the targets of all segments of a batch, one after another."""
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
        if self._targets.output_head is None:
            return selected
        # On the host, as those of a whole unit wait for its end.
        return replace(selected, hidden_ND=hidden_ND.cpu())

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


def hidden_states(teacher: Teacher, segments: Sequence[Segment]) -> torch.Tensor:
    """Return the last hidden states [N, D] at the targets of segments, read in one batch."""
    input_ids_BL = np.zeros((len(segments), max(map(len, segments))), np.int64)
    for row, segment in enumerate(segments):
        input_ids_BL[row, : len(segment)] = segment.input_ids_L
    hidden_BLD = teacher.hidden_states(torch.from_numpy(input_ids_BL).to(teacher.device))
    return torch.cat(
        [
            hidden_BLD[row, torch.from_numpy(segment.positions_T).to(teacher.device)]
            for row, segment in enumerate(segments)
        ]
    )


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


def name_documents(windows: Sequence[TokenWindow]) -> str:
    """Return the first documents of some windows, for a message."""
    names = sorted({f"{one.source}:{one.document_ids[0]}" for one in windows})
    return f"documents {', '.join(names[:5])}"
