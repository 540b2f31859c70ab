"""Segments in batches of like length, as large as the device's memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from softtargets.capture.memory import enough_memory, free_memory, is_out_of_memory
from softtargets.capture.segments import Segment, name_segments

MOST_PADDING = 0.05
"""Share of a batch that may be padding."""

Result = TypeVar("Result")


class Batches:
    """Hands segments out in batches of at most `num_tokens` tokens, padding included.

    When the device's memory does not suffice, the number is halved and stays so: what is computed
    then differs by rounding noise only.
    """

    def __init__(self, num_tokens: int, device: torch.device) -> None:
        self.num_tokens = num_tokens
        self._device = device

    def run(
        self, segments: Sequence[Segment], read: Callable[[Sequence[Segment]], Result]
    ) -> Iterator[tuple[list[int], Result]]:
        """Yield the places of a batch's segments, and what `read` makes of them.

        Longest segments come first, with others of like length: little is padded.

        Raises:
            TeacherError: a single segment does not fit the device's memory; the message names it.
        """
        left = list(range(len(segments)))
        while left:
            done: set[int] = set()
            for batch in plan_batches([len(segments[place]) for place in left], self.num_tokens):
                places = [left[index] for index in batch]
                members = [segments[place] for place in places]
                result = self._try(members, read)
                if result is None:
                    free_memory(self._device)
                    self.num_tokens = max(1, len(members) * len(members[0]) // 2)
                    break
                done.update(places)
                yield places, result
            left = [place for place in left if place not in done]

    def _try(
        self, segments: Sequence[Segment], read: Callable[[Sequence[Segment]], Result]
    ) -> Result | None:
        """Return what is made of a batch, or None if the memory suffices for fewer only."""
        if len(segments) == 1:
            where = f"{name_segments(segments)}, {len(segments[0]):,} tokens"
            next_step = "Pass a smaller --sequence-length, or another --device."
            with enough_memory(where, "one of them", self._device, next_step):
                return read(segments)
        try:
            return read(segments)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        return None


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
