"""Batches laid out anew: windows cut into shorter pieces, short ones put into one row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from softtargets.errors import InputError
from softtargets.stream.attention import attention_mask
from softtargets.stream.batch import IGNORE_INDEX, Batch
from softtargets.stream.batch_targets import split_steps
from softtargets.stream.items import PADDING_ID
from softtargets.stream.target_tensors import target_tensors
from softtargets.targets.entry_bytes import ESCAPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some tokens of a window in a row of a batch."""

    window_id: str
    start: int
    """Where its first token stands in the window."""
    num_tokens: int
    column: int
    """And where in the row."""


def repack(batch: Batch, row_tokens: int, piece_tokens: int | None = None) -> Batch:
    """Return the windows of a batch in rows of at most `row_tokens` tokens.

    Longer windows are cut; the pieces go, the longest first, into the first row that has room. A
    token keeps its target, its label and its mask, but where a window is cut: the target at the
    last token of a piece is of a token that is not in its row, so it is masked. The teacher read
    the whole window before it, the student reads the piece.

    In the result [R, L], R and L depend on the windows. `segment_ids` tell pieces and documents
    apart, `position_ids` begin anew in each; by `student_inputs` none sees another. `window_id`
    has the ids of a row's windows, joined by a space; `pieces` has R lists of `Piece`. Windows that
    only fill a batch up are left out, unless there are no others.

    Args:
        batch: of `SoftTargetDataset` or `collate`, on the CPU.
        row_tokens: most tokens of a row.
        piece_tokens: most tokens of a piece, if that is less.

    Raises:
        InputError: a length is below 2, pieces are longer than rows, or the batch is one of
            `repack`, or its targets are about whole windows, or windows have an encoder's input.
    """
    most = _most_tokens(batch, row_tokens, piece_tokens)
    rows = _fill_rows(_cut(batch, most), row_tokens)
    lengths = [row[-1].column + row[-1].num_tokens for row in rows]
    packed = _move(batch, _sources(batch, rows, max(lengths)))
    _separate(packed, rows, batch.schema.convention.shift)
    packed["window_id"] = [
        " ".join(dict.fromkeys(piece.window_id for piece in pieces)) for pieces in rows
    ]
    packed["num_targets"] = int(packed["target_mask"].sum())
    packed["num_segments"] = int(packed["segment_ids"].max()) + 1
    packed["num_tokens"] = torch.tensor(lengths)
    packed["attention_mask"] = attention_mask(
        packed["num_tokens"], max(lengths), packed["num_segments"]
    )
    packed["pieces"] = rows
    return Batch(packed)


def _most_tokens(batch: Batch, row_tokens: int, piece_tokens: int | None) -> int:
    """Return how many tokens a piece may have."""
    most = row_tokens if piece_tokens is None else piece_tokens
    if batch.schema.convention.is_of_windows:
        raise InputError(
            "repack",
            expected="targets that are about tokens",
            found=batch.schema.convention.words,
            next_step="Feed such windows to the student as they are.",
        )
    if batch.schema.encoder_input:
        raise InputError(
            "repack",
            expected="windows of tokens alone",
            found="windows that an encoder reads something beside",
            next_step="Feed such windows to the student as they are.",
        )
    if not 2 <= most <= row_tokens or "pieces" in batch:
        raise InputError(
            "repack",
            expected="2 <= piece_tokens <= row_tokens, and a batch with one window a row",
            found=f"piece_tokens {piece_tokens}, row_tokens {row_tokens}"
            + (", a batch that was packed before" if "pieces" in batch else ""),
            next_step="Correct the lengths.",
        )
    return most


def _cut(batch: Batch, most: int) -> list[Piece]:
    """Return the pieces of all windows."""
    lengths = batch["num_tokens"].tolist()
    windows = list(zip(batch["window_id"], lengths, strict=True))
    own = [one for one in windows if one[0] != PADDING_ID] or windows[:1]
    return [
        Piece(window_id=window_id, start=at, num_tokens=min(most, length - at), column=0)
        for window_id, length in own
        for at in range(0, length, most)
    ]


def _fill_rows(pieces: list[Piece], row_tokens: int) -> list[list[Piece]]:
    """Return rows of pieces: first fit, by falling length."""
    rows: list[list[Piece]] = []
    used: list[int] = []
    for piece in sorted(pieces, key=lambda one: -one.num_tokens):
        fits = (row for row, num in enumerate(used) if num + piece.num_tokens <= row_tokens)
        row = next(fits, len(rows))
        if row == len(rows):
            rows.append([])
            used.append(0)
        rows[row].append(
            Piece(
                window_id=piece.window_id,
                start=piece.start,
                num_tokens=piece.num_tokens,
                column=used[row],
            )
        )
        used[row] += piece.num_tokens
    return rows


def _sources(batch: Batch, rows: list[list[Piece]], width: int) -> torch.Tensor:
    """Return where each token of the new rows stands in a flattened [B, L]; -1 for none."""
    sources = torch.full((len(rows), width), -1)
    places = {window_id: row for row, window_id in enumerate(batch["window_id"])}
    for row, pieces in enumerate(rows):
        for piece in pieces:
            first = places[piece.window_id] * batch["input_ids"].shape[1] + piece.start
            own = slice(piece.column, piece.column + piece.num_tokens)
            sources[row, own] = torch.arange(first, first + piece.num_tokens)
    return sources


def _move(batch: Batch, sources: torch.Tensor) -> dict[str, Any]:
    """Return what is in a batch, tensors [B, L, ...] laid out anew.

    What a part of your own has of a row, and not of its tokens, is left out.
    """
    shape = batch["input_ids"].shape
    targets = {one.name: one for one in target_tensors(batch.schema)}
    of_rows = {name for name, one in targets.items() if one.place == "row"}
    moved = {name: value for name, value in batch.items() if name not in of_rows}
    for name, value in moved.items():
        if isinstance(value, torch.Tensor) and value.shape[:2] == shape:
            taken = value.flatten(0, 1)[sources.clamp(min=0)]
            fill = targets[name].fill if name in targets else 0
            taken[sources < 0] = IGNORE_INDEX if name == "labels" else fill
            moved[name] = taken
    entries = batch.schema.entries
    if entries is not None and entries.step is not None and entries.form == "planes":
        moved["escapes"] = _move_escapes(batch, sources, entries.max_entries)
    return moved


def _separate(packed: dict[str, Any], rows: list[list[Piece]], shift: int) -> None:
    """Let no target, label, segment or position reach from one piece into another.

    Args:
        packed: is changed.
        rows: the pieces of each row.
        shift: of the targets' convention.
    """
    segments, positions = packed["segment_ids"], packed["position_ids"]
    for row, pieces in enumerate(rows):
        num_segments = 0
        for piece in pieces:
            first, last = piece.column, piece.column + piece.num_tokens - 1
            packed["labels"][row, first : first + shift] = IGNORE_INDEX
            packed["target_mask"][row, last + 1 - shift : last + 1] = False
            own = segments[row, first : last + 1]
            own -= int(own[0])
            positions[row, first : last + 1] -= (own == 0) * int(positions[row, first])
            own += num_segments
            num_segments = int(own[-1]) + 1


def _move_escapes(batch: Batch, sources: torch.Tensor, num_entries: int) -> torch.Tensor:
    """Return the escapes of each new row, in the order of its [L, K], padded to the most [R, E]."""
    counts = (split_steps(batch["steps"], num_entries) == ESCAPE).sum(dim=-1)
    is_escape = torch.arange(batch["escapes"].shape[1]) < counts.sum(dim=1, keepdim=True)
    escapes, counts = batch["escapes"][is_escape], counts.flatten()
    firsts = counts.cumsum(0) - counts
    moved = []
    for places in sources:
        own = places[places >= 0]
        num = counts[own]
        starts = (firsts[own] - (num.cumsum(0) - num)).repeat_interleave(num)
        moved.append(escapes[starts + torch.arange(len(starts))])
    return pad_sequence(moved, batch_first=True)
