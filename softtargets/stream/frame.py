"""Where the cells of rows go in the arrays of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softtargets.store.row import Row
from softtargets.stream.batch import IGNORE_INDEX
from softtargets.targets import UNKNOWN_LABEL, Array, Bool, Convention, Int64


class Frame:
    """B rows, and where their cells go in arrays [B, L, ...] as long as the longest of them.

    Args:
        rows: of one or several stores.
        convention: how their targets stand to their tokens. Of targets that are about whole windows
            there is one in a row, and arrays of targets are [B, ...].
        pad_token_id: what stands after the tokens of a row.
    """

    def __init__(self, rows: Sequence[Row], convention: Convention, pad_token_id: int = 0) -> None:
        self.rows = rows
        self._pad_token_id = pad_token_id
        self.convention = convention
        self.num_tokens = [len(row) for row in rows]
        self.shape = len(rows), max(self.num_tokens)
        self._bounds = [row.bounds("mask") for row in rows]
        """Where the cells of columns of targets begin and end."""
        lengths = {stop - start for start, stop in self._bounds}
        self._are_listed = ["target_positions" in row.columns for row in rows]
        """Whose targets are not simply the first positions; a mixture has rows of both kinds."""
        self._places: dict[str, tuple[Int64, int]] = {}
        self._same_length = None if any(self._are_listed) or len(lengths) > 1 else lengths.pop()

    @property
    def target_places_T(self) -> Int64:
        """Return where the targets of all rows stand in a flattened [B, L]."""
        places = []
        rows = zip(self.rows, self._bounds, self._are_listed, strict=True)
        for number, (row, (start, stop), is_listed) in enumerate(rows):
            own = row.cell("target_positions") if is_listed else np.arange(stop - start)
            places.append(own + number * self.shape[1])
        return np.concatenate(places)

    def joined(self, name: str) -> Array:
        """Return the cells of a column, one after the other."""
        return np.concatenate([row.cell(name) for row in self.rows])

    def pad(self, name: str) -> Array:
        """Return the cells of a column, each padded to the longest; trainers may slice rows."""
        cells = [row.cell(name) for row in self.rows]
        padded = np.zeros((len(cells), max(len(cell) for cell in cells)), cells[0].dtype)
        for own, cell in zip(padded, cells, strict=True):
            own[: len(cell)] = cell
        return padded

    def place_targets(self, name: str, fill: float = 0) -> Array:
        """Return a column of targets as [B, L, ...], filled where there is none."""
        if self.convention.is_of_windows:
            return self.joined(name)
        first = self.rows[0].columns[name]
        padded = np.empty((*self.shape, *first.shape[1:]), first.dtype)
        self._place(padded, name, fill)
        return padded

    def place_tokens(self, name: str) -> Array:
        """Return a column with an element for each token as [B, L, ...], zero at padding."""
        first = self.rows[0].columns[name]
        padded = np.zeros((*self.shape, *first.shape[1:]), first.dtype)
        for own_L, row in zip(padded, self.rows, strict=True):
            own_L[: len(row)] = row.cell(name)
        return padded

    def place_grid(self, names: Sequence[str], fill: float = 0) -> Array:
        """Return a column of targets for each temperature as [B, L, G]."""
        padded = np.empty((*self.shape, len(names)), np.float32)
        for index, name in enumerate(names):
            self._place(padded[..., index], name, fill)
        return padded

    def place_lists(self, name: str, counts: str) -> Array:
        """Return what there is of each draw, or entry, as [B, L, S], padded with 0.

        Args:
            name: of the column of draws or entries.
            counts: of the column with how many each target has.
        """
        at_S, width = self._list_places(counts)
        array_S = self.joined(name)
        placed = np.zeros((*self.shape, width), array_S.dtype)
        placed.reshape(-1)[at_S] = array_S
        return placed

    def _list_places(self, counts: str) -> tuple[Int64, int]:
        """Return where each draw, or entry, stands in a flattened [B, L, S], and S."""
        if counts not in self._places:
            num_T = self.joined(counts)
            width = int(num_T.max(initial=1))
            # Those of a position stand one after the other in its row.
            shifts_T = self.target_places_T * width - (np.cumsum(num_T) - num_T)
            self._places[counts] = np.arange(num_T.sum()) + np.repeat(shifts_T, num_T), width
        return self._places[counts]

    def _place(self, padded: Array, name: str, fill: float) -> None:
        cells = zip(self.rows, self._bounds, self._are_listed, strict=True)
        if self._same_length is not None:
            # The usual case, in one call instead of several for every row.
            own = [row.columns[name][None, start:stop] for row, (start, stop), _ in cells]
            np.concatenate(own, out=padded[:, : self._same_length])
            padded[:, self._same_length :] = fill
            return
        padded[:] = fill
        for own_L, (row, (start, stop), is_listed) in zip(padded, cells, strict=True):
            cell_T = row.columns[name][start:stop]
            if is_listed:
                own_L[row.cell("target_positions")] = cell_T
            else:
                own_L[: len(cell_T)] = cell_T

    def inputs(self) -> dict[str, Array]:
        """Return what the student reads, without labels."""
        ids_BL = np.full(self.shape, self._pad_token_id, np.int64)
        for own, row, num_tokens in zip(ids_BL, self.rows, self.num_tokens, strict=True):
            own[:num_tokens] = row.cell("input_ids")
        at_L = np.arange(self.shape[1])
        is_token_BL = at_L < np.array(self.num_tokens)[:, None]
        segment_ids_BL = np.zeros(self.shape, np.int64)
        position_ids_BL = np.where(is_token_BL, at_L, 0)
        for number, row in enumerate(self.rows):
            lengths_S = row.cell("segment_lengths")
            if len(lengths_S) > 1:
                here = number, slice(self.num_tokens[number])
                starts_S = np.cumsum(lengths_S) - lengths_S
                segment_ids_BL[here] = np.repeat(np.arange(len(lengths_S)), lengths_S)
                position_ids_BL[here] -= np.repeat(starts_S, lengths_S)
        inputs = {
            "input_ids": ids_BL,
            "segment_ids": segment_ids_BL,
            "position_ids": position_ids_BL,
        }
        if "token_type_ids" in self.rows[0].columns:
            inputs["token_type_ids"] = self.pad("token_type_ids").astype(np.int64)
        if "encoder_input_ids" in self.rows[0].columns:
            inputs |= self._encoder_inputs()
        return inputs

    def _encoder_inputs(self) -> dict[str, Array]:
        """Return what the encoder reads [B, M], and which of it are tokens."""
        cells = [row.cell("encoder_input_ids") for row in self.rows]
        lengths = np.array([len(cell) for cell in cells])
        is_token_BM = np.arange(lengths.max()) < lengths[:, None]
        ids_BM = np.full(is_token_BM.shape, self._pad_token_id, np.int64)
        ids_BM[is_token_BM] = np.concatenate(cells)
        return {
            "encoder_input_ids": ids_BM,
            "encoder_attention_mask": is_token_BM.astype(np.int64),
        }

    def labels(self, ids_BL: Array, target_mask: Bool) -> Array:
        """Return the label of each target that is trained on, at the token it is about.

        Args:
            ids_BL: what the student reads.
            target_mask: which targets are trained on, as `place_targets` returns it.

        Returns:
            `IGNORE_INDEX` where none is trained on or the label is unknown; of labels that are
            numbers, a row of them for each target, with NaN there.
        """
        if "label_values" in self.rows[0].columns:
            values = self.place_targets("label_values", np.nan)
            return np.where(target_mask[..., None], values, np.float32(np.nan))
        labels = np.full(target_mask.shape, IGNORE_INDEX)
        if self.convention.labels_are_inputs:
            shift = self.convention.shift
            stop = self.shape[1] - shift
            np.copyto(labels[:, shift:], ids_BL[:, shift:], where=target_mask[:, :stop])
        elif "label_ids" in self.rows[0].columns:
            np.copyto(labels, self.place_targets("label_ids"), where=target_mask)
            labels[labels == UNKNOWN_LABEL] = IGNORE_INDEX
        return labels
