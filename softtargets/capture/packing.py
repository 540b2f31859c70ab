"""Pieces of documents that follow each other share a window while they fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from softtargets.targets import Bool, Convention
from softtargets.window import TokenWindow, hash_window


def pack_pieces(
    pieces: Iterable[TokenWindow], sequence_length: int, convention: Convention
) -> Iterator[TokenWindow]:
    """Yield windows of pieces, in order.

    Args:
        pieces: windows of one document each.
        sequence_length: tokens that a window has at most.
        convention: how the targets stand to the tokens.
    """
    group: list[TokenWindow] = []
    num_tokens = 0
    for piece in pieces:
        fits = (
            num_tokens + len(piece) <= sequence_length
            # A window has one source, and one offset.
            and piece.offset == 0
            and (not group or piece.source == group[0].source)
        )
        if group and not fits:
            yield _joined(group, convention)
            group, num_tokens = [], 0
        group.append(piece)
        num_tokens += len(piece)
    if group:
        yield _joined(group, convention)


def _joined(pieces: Sequence[TokenWindow], convention: Convention) -> TokenWindow:
    first = pieces[0]
    if len(pieces) == 1:
        return first
    input_ids_L = np.concatenate([piece.input_ids_L for piece in pieces])
    segment_lengths_S = np.array([len(piece) for piece in pieces], np.int32)
    is_target_L = np.concatenate([_is_target(piece, convention) for piece in pieces])
    is_target_T = is_target_L[convention.shift :]
    positions_T = (
        None if first.positions_T is None else np.flatnonzero(is_target_T).astype(np.int32)
    )
    mask_T = is_target_T if positions_T is None else np.ones(len(positions_T), np.bool_)
    return TokenWindow(
        window_id=hash_window(input_ids_L, segment_lengths_S, mask_T, positions_T=positions_T),
        input_ids_L=input_ids_L,
        segment_lengths_S=segment_lengths_S,
        mask_T=mask_T,
        document_ids=tuple(piece.document_ids[0] for piece in pieces),
        offset=first.offset,
        source=first.source,
        positions_T=positions_T,
        metadata={
            name: tuple(piece.metadata[name][0] for piece in pieces) for name in first.metadata
        },
    )


def _is_target(piece: TokenWindow, convention: Convention) -> Bool:
    """Return which tokens of a piece a student is trained to predict, [L]."""
    is_target_L = np.zeros(len(piece), np.bool_)
    positions_T = piece.target_positions_T[piece.mask_T]
    is_target_L[positions_T + convention.shift] = True
    return is_target_L
