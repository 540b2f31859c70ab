"""Token windows to windows with soft targets: batches, the teacher's forward pass, selection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from softtargets.capture.select import Selected, TopK
from softtargets.capture.teacher import Teacher
from softtargets.errors import TeacherError
from softtargets.kinds import TargetSchema
from softtargets.packing import pack
from softtargets.window import TokenWindow, Window

_CHUNK_ELEMENTS = 1 << 22
"""Logits held at once, in float32: 16 MB, which stays near the cores' caches."""


def score_windows(
    windows: Sequence[TokenWindow],
    teacher: Teacher,
    selection: TopK,
    targets: TargetSchema,
    batch_tokens: int,
) -> Iterator[tuple[int, Window]]:
    """Yield every window with its targets, and its place in `windows`, in the order of scoring.

    Windows of like length are batched together, so that little is padded.

    Raises:
        TeacherError: the teacher's logits cannot be stored; the message names the documents.
    """
    for batch in plan_batches([len(window) for window in windows], batch_tokens):
        members = [windows[place] for place in batch]
        try:
            selected = _score_batch(members, teacher, selection, targets.temperatures)
        except TeacherError as error:
            names = sorted({f"{one.source}:{one.document_ids[0]}" for one in members})
            raise TeacherError(
                f"{error.where} of documents {', '.join(names[:5])}",
                expected=error.expected,
                found=error.found,
                next_step=error.next_step,
            ) from error
        start = 0
        for place, window in zip(batch, members, strict=True):
            stop = start + len(window) - 1
            rows = selected.rows(start, stop, targets.temperatures)
            start = stop
            yield place, Window.of(window, pack(rows, targets))


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Return batches of places, longest windows first, none above `batch_tokens` when padded.

    A window longer than that is a batch by itself. A pure function, so that a unit gives the same
    numbers whoever runs it.
    """
    batches: list[list[int]] = []
    width = 0
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        if not batches or (len(batches[-1]) + 1) * width > batch_tokens:
            batches.append([])
            width = lengths[place]
        batches[-1].append(place)
    return batches


def _score_batch(
    windows: Sequence[TokenWindow],
    teacher: Teacher,
    selection: TopK,
    temperatures: tuple[float, ...],
) -> Selected:
    """Return the targets of all windows of a batch, one after another."""
    input_ids_BL = np.zeros((len(windows), len(windows[0])), np.int64)
    for row, window in enumerate(windows):
        input_ids_BL[row, : len(window)] = window.input_ids_L
    hidden_BLD = teacher.hidden_states(torch.from_numpy(input_ids_BL).to(teacher.device))
    with torch.inference_mode():
        hidden_ND = torch.cat(
            [hidden_BLD[row, : len(window) - 1] for row, window in enumerate(windows)]
        )
        labels = np.concatenate([window.input_ids_L[1:] for window in windows])
        labels_N = torch.from_numpy(labels.astype(np.int64)).to(teacher.device)
        chunk = max(1, _CHUNK_ELEMENTS // teacher.vocab_size)
        parts = [
            selection.select(teacher.logits(hidden_CD), labels_C, temperatures)
            for hidden_CD, labels_C in zip(
                hidden_ND.split(chunk), labels_N.split(chunk), strict=True
            )
        ]
    return Selected.concatenate(parts)
