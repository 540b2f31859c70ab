"""Token windows to windows with soft targets: batches, the teacher's forward pass, selection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from softtargets.capture.select import Selected, TopK
from softtargets.capture.teacher import Teacher
from softtargets.errors import TeacherError
from softtargets.kinds import TargetSchema
from softtargets.packing import pack
from softtargets.window import TokenWindow, Window

_HEAD_ELEMENTS = {"cpu": 1 << 24}
"""Logits the head makes at once: enough for its matrix product to be efficient."""
_SELECT_ELEMENTS = {"cpu": 1 << 22}
"""Logits selected from at once, in float32: on a CPU 16 MB, which stays near its caches."""
_DEVICE_ELEMENTS = 1 << 27
"""Both on other devices, where a launch costs more than a larger tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """Windows of a batch with their targets one after another, still on the teacher's device."""

    places: Sequence[int]
    """Where the windows stand in what was scored."""
    windows: Sequence[TokenWindow]
    selected: Selected

    def pack(self, targets: TargetSchema) -> Iterator[tuple[int, Window]]:
        """Yield every window's place and the window with its targets.

        Raises:
            TeacherError: the teacher's logits cannot be stored; the message names the documents.
        """
        selected = self.selected.cpu()
        try:
            selected.check()
        except TeacherError as error:
            raise TeacherError(
                f"{error.where} of {name_documents(self.windows)}",
                expected=error.expected,
                found=error.found,
                next_step=error.next_step,
            ) from error
        start = 0
        for place, window in zip(self.places, self.windows, strict=True):
            rows = selected.rows(start, start + len(window) - 1, targets.temperatures)
            start += len(window) - 1
            yield place, Window.of(window, pack(rows, targets))


class Scorer:
    """Runs a teacher over windows in batches of at most `batch_tokens` tokens, padding included.

    When the device's memory does not suffice, the number is halved and stays so: targets then
    differ by rounding noise only.
    """

    def __init__(
        self, teacher: Teacher, selection: TopK, targets: TargetSchema, batch_tokens: int
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
        self._workspace: torch.Tensor | None = None

    def score(self, windows: Sequence[TokenWindow]) -> Iterator[ScoredBatch]:
        """Yield the windows in batches of like length, longest first, so that little is padded.

        Raises:
            TeacherError: a single window does not fit the device's memory.
        """
        left = list(range(len(windows)))
        while left:
            lengths = [len(windows[place]) for place in left]
            batches = plan_batches(lengths, self.batch_tokens)
            done: set[int] = set()
            for batch in batches:
                places = [left[index] for index in batch]
                members = [windows[place] for place in places]
                try:
                    selected = self._score_batch(members)
                except torch.OutOfMemoryError as error:
                    self._use_less_memory(members, error)
                    break
                done.update(places)
                yield ScoredBatch(places=places, windows=members, selected=selected)
            left = [place for place in left if place not in done]

    def _use_less_memory(
        self, members: Sequence[TokenWindow], error: torch.OutOfMemoryError
    ) -> None:
        if len(members) == 1:
            raise TeacherError(
                f"{name_documents(members)}, a window of {len(members[0]):,} tokens",
                expected=f"enough memory on {self._teacher.device} for one window",
                found=str(error).splitlines()[0],
                next_step="Pass a smaller --sequence-length, or another --device.",
            ) from error
        self._workspace = None
        if self._teacher.device.type == "cuda":
            torch.cuda.empty_cache()
        self.batch_tokens = max(1, len(members) * len(members[0]) // 2)

    @torch.inference_mode()
    def _score_batch(self, windows: Sequence[TokenWindow]) -> Selected:
        """Return the targets of all windows of a batch, one after another."""
        teacher, device = self._teacher, self._teacher.device
        input_ids_BL = np.zeros((len(windows), len(windows[0])), np.int64)
        for row, window in enumerate(windows):
            input_ids_BL[row, : len(window)] = window.input_ids_L
        hidden_BLD = teacher.hidden_states(torch.from_numpy(input_ids_BL).to(device))
        hidden_ND = torch.cat(
            [hidden_BLD[row, : len(window) - 1] for row, window in enumerate(windows)]
        )
        labels = np.concatenate([window.input_ids_L[1:] for window in windows])
        labels_N = torch.from_numpy(labels.astype(np.int64)).to(device)
        parts = []
        for hidden_HD, labels_H in zip(
            hidden_ND.split(self._head_rows), labels_N.split(self._head_rows), strict=True
        ):
            logits_HV = teacher.logits(hidden_HD)
            for logits_CV, labels_C in zip(
                logits_HV.split(self._select_rows), labels_H.split(self._select_rows), strict=True
            ):
                own_CV = self._own(logits_CV)
                parts.append(self._selection.select(own_CV, labels_C, self._targets.temperatures))
        return Selected.concatenate(parts)

    def _own(self, logits_CV: torch.Tensor) -> torch.Tensor:
        """Return float32 logits that may be overwritten, always in the same memory.

        A new tensor of this size costs as much time as the selection itself: the system maps
        its pages one by one.
        """
        if self._workspace is None:
            shape = (self._select_rows, logits_CV.shape[1])
            self._workspace = torch.empty(shape, dtype=torch.float32, device=logits_CV.device)
        return self._workspace[: len(logits_CV)].copy_(logits_CV)


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
