"""Token windows to windows with soft targets: batches, what a teacher captures, packing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from softtargets.capture.batches import Batches
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Keep, Selection
from softtargets.capture.segments import Segment, name_documents, name_segments, segments_of
from softtargets.capture.teacher import Teacher
from softtargets.errors import InputError, TeacherError
from softtargets.store.rounding import RoundingError
from softtargets.targets import PackedTargets, TargetSchema, pack
from softtargets.targets.features import unpack_feature
from softtargets.window import TokenWindow, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """Segments of a batch with their targets one after another, on the host."""

    places: Sequence[int]
    """Where the segments stand among those of all windows."""
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

    def rows(self) -> Iterator[tuple[int, str, Selected]]:
        """Yield every segment's place, its window's id and its targets."""
        start = first = 0
        for place, segment in zip(self.places, self.segments, strict=True):
            stop, end = start + len(segment.positions_T), first + len(segment)
            own = self.selected.slice(start, stop, slice(first, end))
            yield place, segment.window.window_id, own
            start, first = stop, end


class Scorer:
    """Has a teacher capture windows in batches of at most `batch_tokens` tokens; see `Batches`.

    Args:
        teacher: is loaded.
        selection: what is kept.
        targets: what its targets are.
        batch_tokens: most tokens of a batch.
        cut: makes segments of windows, as `CaptureTask.segments` does.
    """

    def __init__(
        self,
        teacher: Teacher,
        selection: Selection,
        targets: TargetSchema,
        batch_tokens: int,
        cut: Callable[..., list[Segment]] = segments_of,
    ) -> None:
        self._teacher = teacher
        self._keep = Keep.of(selection, targets)
        self._batches = Batches(batch_tokens, teacher.device)
        self._cut = cut

    @property
    def batch_tokens(self) -> int:
        """Return how many tokens a batch has, fewer than at first if memory did not suffice."""
        return self._batches.num_tokens

    def score(self, windows: Sequence[TokenWindow]) -> Iterator[ScoredBatch]:
        """Yield their segments in batches, longest first.

        Raises:
            TeacherError: a single segment does not fit the device's memory, has ids that the
                teacher does not know, or gets logits that are no numbers; the message names it.
        """
        segments = self._cut(*windows)
        for places, selected in self._batches.run(segments, self._capture):
            members = [segments[place] for place in places]
            yield ScoredBatch(places=places, segments=members, selected=selected)

    def _capture(self, segments: Sequence[Segment]) -> Selected:
        selected = self._teacher.capture(segments, self._keep)
        check_selected(selected, segments)
        return selected


def check_selected(selected: Selected, segments: Sequence[Segment]) -> None:
    """Check that a teacher gave numbers at the targets of segments.

    Raises:
        TeacherError: it did not; the message names the documents.
    """

    def name_rows(rows: Sequence[int]) -> str:
        ends = np.cumsum([len(segment.positions_T) for segment in segments])
        places = np.unique(np.searchsorted(ends, rows, side="right"))
        return name_segments([segments[place] for place in places])

    selected.check(name_rows)


def pack_windows(
    windows: Sequence[TokenWindow],
    batches: Iterable[ScoredBatch],
    targets: TargetSchema,
    errors: dict[str, RoundingError] | None = None,
) -> list[Window]:
    """Return windows with their targets, from all batches that they were scored in.

    Args:
        windows: of a unit.
        batches: with all of their segments.
        targets: of the store.
        errors: is told, by feature, how far hidden states are from the teacher's.

    Raises:
        TeacherError: logits or hidden states cannot be stored in their form; the message names the
            documents.
    """
    parts: dict[str, list[Selected]] = {window.window_id: [] for window in windows}
    rows = (row for batch in batches for row in batch.rows())
    for _, window_id, selected in sorted(rows, key=lambda row: row[0]):
        parts[window_id].append(selected)
    return [
        pack_window(window, Selected.concatenate(parts[window.window_id]), targets, errors)
        for window in windows
    ]


def pack_window(
    window: TokenWindow,
    selected: Selected,
    targets: TargetSchema,
    errors: dict[str, RoundingError] | None = None,
) -> Window:
    """Return a window with the targets of its positions.

    Raises:
        TeacherError: logits or hidden states cannot be stored in their form; the message names the
            documents.
        InputError: there are other parts than the schema names.
    """
    try:
        packed = pack(selected.numpy(targets), targets)
    except InputError as error:
        next_step = _WIDER.get(error.where.partition(" ")[0])
        if next_step is None:
            raise
        where = f"{error.where} of {name_documents([window])}"
        raise error.restated(TeacherError, where, next_step=next_step) from error
    if errors is not None:
        _add_errors(errors, selected, packed)
    return Window.of(window, packed)


_WIDER = {
    "logits": "Pass --values float32, which keeps logits as they are.",
    "feature": "Pass --layer-values bfloat16, int8 or float8; the last two have a scale for each "
    "token. Where it is no number, the teacher's weights are damaged.",
}
"""What to do where numbers cannot be stored, by what they are."""


def _add_errors(
    errors: dict[str, RoundingError], selected: Selected, packed: PackedTargets
) -> None:
    """Add how far stored hidden states are from the teacher's, where they are in another format."""
    states = selected.states()
    for one in packed.schema.features:
        if one.name in states and states[one.name].dtype != getattr(torch, one.dtype, None):
            own = RoundingError.of(
                states[one.name].float().numpy(), unpack_feature(packed.cells, one)
            )
            errors[one.name] = errors.get(one.name, RoundingError()) + own
