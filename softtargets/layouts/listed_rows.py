"""Rows of lists of entries, as other tools store them, and with the entries at their targets.

Shapes: L tokens, T = L - 1 targets, N positions that a row has lists for, E entries of all of them,
S documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from softtargets.errors import CorpusError
from softtargets.layouts.lists import Kind, read_lists, read_nested
from softtargets.targets import Array, Bool, Float64, Int64

IGNORE_INDEX = -100
"""The label of a token that is not trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRow:
    """L tokens and the entries of their targets, in any order."""

    where: str
    """File and row."""
    input_ids_L: Int64
    segment_lengths_S: Int64
    mask_T: Bool
    """Which targets a student is trained on."""
    target_E: Int64
    """Which target each entry belongs to."""
    ids_E: Int64
    values_E: Float64
    """-inf for what is no entry."""
    rounding: float
    """Relative error of the number format the values are stored in."""

    def check(self, holds_E: Bool, expected: str, found_E: Array) -> None:
        """Check a promise about every entry.

        Raises:
            CorpusError: naming the first target where it does not hold.
        """
        if not holds_E.all():
            first = int(holds_E.argmin())
            raise self.wrong(int(self.target_E[first]), expected, f"{found_E[first]}")

    def wrong(self, target: int, expected: str, found: str) -> CorpusError:
        """Return the error of a target."""
        return CorpusError(
            f"{self.where}, target {target}",
            expected=expected,
            found=found,
            next_step="Check that --from, --values-are, --temperature and --vocab-size say what "
            "the files hold, or leave this row out.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListsOfRow:
    """A row as a layout has it: tokens, and lists at N positions in the layout's own order."""

    where: str
    """File and row."""
    input_ids_L: Array
    attention_L: Array | None
    """0 for padding, else the number of the token's segment; None when all are of one."""
    labels_L: Array | None
    """None when all tokens are trained on."""
    counts_N: Int64
    """How many values each position has."""
    ids: tuple[Int64, Array]
    """How many ids each position has, and the ids."""
    values_E: Array
    """-inf for what is no entry."""
    rounding: float

    def placed(self, shift: int, is_trained_L: Bool | None) -> ListedRow:
        """Return the entries at their targets, without padding.

        Args:
            shift: list n is about the target at token n + shift, which may not be there.
            is_trained_L: which tokens' targets are trained on; None when all are.

        Raises:
            CorpusError: ids and values differ in number, or the padding is in the middle.
        """
        id_counts_N, ids_E = self.ids
        self.check(
            np.array_equal(self.counts_N, id_counts_N),
            "as many ids as values at every position",
            f"{int(id_counts_N.sum())} and {int(self.counts_N.sum())} at {len(id_counts_N)} and "
            f"{len(self.counts_N)} positions",
        )
        start, stop, segment_lengths_S = self._segments()
        mask_T = np.ones(max(0, stop - start - 1), np.bool_)
        if is_trained_L is not None:
            mask_T = is_trained_L[start : stop - 1].copy()
        # What follows a segment's last token is another document's.
        mask_T[np.cumsum(segment_lengths_S)[:-1] - 1] = False
        target_E = self._targets(shift) - start
        is_target_E = (target_E >= 0) & (target_E < len(mask_T)) & (self.values_E != -np.inf)
        with np.errstate(invalid="ignore"):  # What is no number is found when entries are checked.
            values_E = self.values_E[is_target_E].astype(np.float64)
        return ListedRow(
            where=self.where,
            input_ids_L=self.input_ids_L[start:stop].astype(np.int64),
            segment_lengths_S=segment_lengths_S,
            mask_T=mask_T,
            target_E=target_E[is_target_E],
            ids_E=ids_E[is_target_E].astype(np.int64),
            values_E=values_E,
            rounding=self.rounding,
        )

    def check_lists(self) -> None:
        """Check that there is a list for every token, or for all but the last.

        Raises:
            CorpusError: there are others.
        """
        num_tokens, num_lists = len(self.input_ids_L), len(self.counts_N)
        self.check(
            num_lists in (num_tokens, num_tokens - 1),
            f"{num_tokens} or {num_tokens - 1} lists for {num_tokens} tokens",
            f"{num_lists}",
        )

    def check_labels(self) -> Array | None:
        """Return the labels, if there are any, checked to be one for every token.

        Raises:
            CorpusError: there are others.
        """
        if self.labels_L is not None:
            num_tokens, num_labels = len(self.input_ids_L), len(self.labels_L)
            self.check(num_labels == num_tokens, f"{num_tokens} labels", f"{num_labels}")
        return self.labels_L

    def labelled_next(self) -> Bool | None:
        """Return which tokens' targets are trained on, by the label of the token after each.

        Raises:
            CorpusError: there is not a label for every token.
        """
        labels_L = self.check_labels()
        if labels_L is None:
            return None
        return np.append(labels_L[1:] != IGNORE_INDEX, np.False_)[: len(labels_L)]

    def targets_with(self, chosen_E: Bool, shift: int) -> Bool:
        """Return which tokens [L] have a target with one of some entries."""
        at_E = self._targets(shift)[chosen_E]
        found_L = np.zeros(len(self.input_ids_L), np.bool_)
        found_L[at_E[(at_E >= 0) & (at_E < len(found_L))]] = True
        return found_L

    def check(self, holds: bool, expected: str, found: str) -> None:
        """Check a promise about the row.

        Raises:
            CorpusError: it does not hold.
        """
        if not holds:
            raise CorpusError(
                self.where,
                expected=expected,
                found=found,
                next_step="Check that --from names the files' layout, or leave this row out.",
            )

    def _targets(self, shift: int) -> Int64:
        return np.repeat(np.arange(len(self.counts_N)) + shift, self.counts_N)

    def _segments(self) -> tuple[int, int, Int64]:
        """Return where the tokens begin and end, and the lengths of the documents among them."""
        num_tokens = len(self.input_ids_L)
        if self.attention_L is None:
            return 0, num_tokens, np.array([num_tokens])
        at = np.flatnonzero(self.attention_L)
        self.check(
            len(self.attention_L) == num_tokens and len(at) > 0 and at[-1] - at[0] == len(at) - 1,
            f"an attention_mask of {num_tokens} numbers, 0 at the beginning or end alone",
            f"{len(self.attention_L)} numbers, {len(at)} of them not 0",
        )
        changes = np.flatnonzero(np.diff(self.attention_L[at])) + 1
        return int(at[0]), int(at[-1]) + 1, np.diff([0, *changes, len(at)])


def read_rows(
    batch: pa.RecordBatch, where: str, first: int, *, ids: str, values: str, kind: Kind = "numbers"
) -> Iterator[ListsOfRow]:
    """Yield the rows of a part of a file, whose first row has the number `first`.

    They have `input_ids`, the columns of lists of lists that `ids` and `values` name, and `labels`
    and `attention_mask` where these are there. Values are of a kind.

    Raises:
        CorpusError: a column is missing or of another type.
        LimitError: a row is longer than it is trusted to be.
    """
    tokens = read_lists(batch, "input_ids", where)
    id_lists = read_nested(batch, ids, where)
    value_lists = read_nested(batch, values, where, kind)
    labels, attention = (
        read_lists(batch, name, where) if name in batch.schema.names else None
        for name in ("labels", "attention_mask")
    )
    for number in range(batch.num_rows):
        counts_N, values_E = value_lists.row(number)
        yield ListsOfRow(
            where=f"{where}, row {first + number}",
            input_ids_L=tokens.row(number),
            attention_L=None if attention is None else attention.row(number),
            labels_L=None if labels is None else labels.row(number),
            counts_N=counts_N,
            ids=id_lists.row(number),
            values_E=values_E,
            rounding=value_lists.rounding,
        )
