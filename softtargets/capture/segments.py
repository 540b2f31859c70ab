"""Segments: what a teacher reads as one sequence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from softtargets.errors import TeacherError
from softtargets.targets import Int32
from softtargets.texts import shortened
from softtargets.window import TokenWindow

_MOST_NAMES = 5
_MOST_NAME = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A document, or a part of one, in a window: what the teacher reads as one sequence.

    It is read from position 0 and sees nothing else of its window, so documents that share a
    window cannot influence each other, whatever the architecture.
    """

    window: TokenWindow
    document_id: str
    start: int
    """Where its first token stands in the window."""
    input_ids_L: Int32
    positions_T: Int32
    """Where in the segment the targets are, rising."""
    label_ids_T: Int32

    @property
    def num_encoder_tokens(self) -> int:
        """Return how many tokens an encoder reads for it beside its own, if there is one."""
        return 0 if self.window.encoder_ids_M is None else len(self.window.encoder_ids_M)

    def __len__(self) -> int:
        return len(self.input_ids_L)


def segments_of(*windows: TokenWindow) -> list[Segment]:
    """Return the segments of windows, in order; their targets together are the windows'."""
    return [segment for window in windows for segment in _segments(window)]


def _segments(window: TokenWindow) -> Iterator[Segment]:
    positions_T, labels_T = window.target_positions_T, window.labels_T
    ends = np.cumsum(window.segment_lengths_S)
    starts = [0, *ends[:-1]]
    for start, stop, document_id in zip(starts, ends, window.document_ids, strict=True):
        is_own_T = (positions_T >= start) & (positions_T < stop)
        yield Segment(
            window=window,
            document_id=document_id,
            start=int(start),
            input_ids_L=window.input_ids_L[start:stop],
            positions_T=positions_T[is_own_T] - start,
            label_ids_T=labels_T[is_own_T],
        )


def check_ids(segments: Iterable[Segment], vocab_size: int, teacher: str) -> None:
    """Check that a teacher knows all ids of segments.

    Raises:
        TeacherError: one is not below its vocabulary size; the message names the document.
    """
    for segment in segments:
        is_known_L = (segment.input_ids_L >= 0) & (segment.input_ids_L < vocab_size)
        if not is_known_L.all():
            place = int(is_known_L.argmin())
            raise TeacherError(
                f"{name_segments([segment])}, token {place}",
                expected=f"ids from 0 to {vocab_size - 1}, which the teacher {teacher} knows",
                found=str(segment.input_ids_L[place]),
                next_step="Pass the teacher that the tokenizer or the token ids belong to.",
            )


def name_segments(segments: Iterable[Segment]) -> str:
    """Return the first documents of some segments, for a message."""
    return _name((one.window.source, one.document_id) for one in segments)


def name_documents(windows: Iterable[TokenWindow]) -> str:
    """Return the first documents of some windows, for a message."""
    return _name((one.source, document_id) for one in windows for document_id in one.document_ids)


def _name(documents: Iterable[tuple[str, str]]) -> str:
    names = sorted({f"{source}:{document_id}" for source, document_id in documents})
    shown = ", ".join(shortened(name, _MOST_NAME) for name in names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return f"document{'s' if len(names) > 1 else ''} {shown}{more}"
