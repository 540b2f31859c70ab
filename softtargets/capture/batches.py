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
            lengths = [len(segments[place]) for place in left]
            encoders = [segments[place].num_encoder_tokens for place in left]
            planned = plan_batches(lengths, self.num_tokens, encoders if any(encoders) else None)
            for batch in planned:
                places = [left[index] for index in batch]
                members = [segments[place] for place in places]
                result = self._try(members, read)
                if result is None:
                    free_memory(self._device)
                    self.num_tokens = max(1, _num_read(members) // 2)
                    break
                done.update(places)
                yield places, result
            left = [place for place in left if place not in done]

    def _try(
        self, segments: Sequence[Segment], read: Callable[[Sequence[Segment]], Result]
    ) -> Result | None:
        """Return what is made of a batch, or None if the memory suffices for fewer only."""
        if len(segments) == 1:
            where = f"{name_segments(segments)}, {_num_read(segments):,} tokens"
            next_step = "Pass a smaller --sequence-length, or another --device."
            with enough_memory(where, "one of them", self._device, next_step):
                return read(segments)
        try:
            return read(segments)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        return None


def plan_batches(
    lengths: Sequence[int], batch_tokens: int, encoder_lengths: Sequence[int] | None = None
) -> list[list[int]]:
    """Return batches of places, longest windows first, none above `batch_tokens` when padded.

    At most a twentieth of a batch is padding, or a tenth where an encoder reads something too:
    windows of like length then come by the length of that. A window longer than `batch_tokens` is a
    batch by itself. A pure function, so that a unit gives the same numbers whoever runs it.

    Args:
        lengths: of the windows.
        batch_tokens: most tokens of a batch, those that encoders read included.
        encoder_lengths: how many tokens an encoder reads for each window.
    """
    others = [0] * len(lengths) if encoder_lengths is None else encoder_lengths
    most_padding = MOST_PADDING * (1 if encoder_lengths is None else 2)
    batches: list[list[int]] = []
    width = other_width = num_tokens = 0
    order = sorted(range(len(lengths)), key=lambda one: (-lengths[one], -others[one], one))
    for place in order:
        own = lengths[place] + others[place]
        widest = max(other_width, others[place])
        padded = (len(batches[-1]) + 1) * (width + widest) if batches else 0
        num_tokens += own
        if not 0 < padded <= batch_tokens or padded - num_tokens > most_padding * padded:
            batches.append([])
            width, widest, num_tokens = lengths[place], others[place], own
        batches[-1].append(place)
        other_width = widest
    return batches


def _num_read(segments: Sequence[Segment]) -> int:
    """Return how many tokens a batch of segments has, padding included."""
    encoders = max(segment.num_encoder_tokens for segment in segments)
    return len(segments) * (max(map(len, segments)) + encoders)
