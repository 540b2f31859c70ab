"""Entries in lists: those of all positions one after another, for numbers that vary.

A position's ids stand by falling logit. Its first entry has the top logit, so the list of steps has
only the others: each entry's distance below the one before it. Distances are rounded below the top
logit before they are differenced, so no entry is further than step / 2 from its logit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softtargets.errors import CorruptionError
from softtargets.targets.arrays import Array, Cells, Columns, Float32, Int64, Offsets
from softtargets.targets.blocks import blocks_of_rows
from softtargets.targets.entry_bytes import kept_entries, step_differences
from softtargets.targets.exact_entries import ENTRY_BYTES, Entries, top_logit, top_logits
from softtargets.targets.part import FINITE, LARGEST_INT, Column, Fault, Range, naming_rows
from softtargets.targets.promises import Promise, check
from softtargets.targets.soft_targets import SoftTargets

_BLOCK_ENTRIES = 1 << 14


@dataclass(frozen=True, slots=True)
class EntryLists(Entries):
    """Entries of any number at every position."""

    def columns(self) -> Sequence[Column]:
        """Return counts, ids and logits; the first has an element for each target."""
        most, last = self.schema.max_entries, self.vocab_size - 1
        # Computing with entries gives every position room for K.
        counts = replace(self.counts(is_packed=True), working_bytes=most * ENTRY_BYTES)
        columns = [counts, top_logit()] if self.schema.top_logit else [counts]
        words, within = "ids of the kept logits", Range(0, last, f"ids from 0 to {last}")
        columns.append(Column("entry_ids", "int32", "any", words, within=within, is_split=True))
        if self.schema.step is None:
            return [*columns, Column("entry_logits", "float32", "any", "kept logits", None, FINITE)]
        words = "distance of each kept logit but a position's first below the one before, in steps"
        within = Range(0, LARGEST_INT, "logits that fall or stay along the rank")
        steps = Column(
            "entry_steps", "int32", "any", words, within=within, is_split=True, is_tight=True
        )
        return [*columns, steps]

    def pack(self, targets: SoftTargets) -> dict[str, Array]:
        """Return the kept entries, position after position.

        Raises:
            InputError: a position has no entry or too many, or logits are not finite, rise along
                the rank, or lie too far apart to be counted in steps.
        """
        num_T, logits_TK = targets.num_entries_T, targets.logits_TK
        most = logits_TK.shape[1]
        kept_TK = kept_entries(num_T, most)
        promises = (
            Promise(f"from 1 to {most} entries", (num_T >= 1) & (num_T <= most)),
            Promise("finite logits", (np.isfinite(logits_TK) | ~kept_TK).all(axis=1)),
        )
        check(iter(promises), "entries", next_step="Keep the top logit of every position.")
        distance_TK, _ = self.distances(targets)
        cells: dict[str, Array] = {
            "num_entries": num_T,
            "top_logit": logits_TK[:, 0],
            "entry_ids": targets.ids_TK[kept_TK],
        }
        if self.schema.step is None:
            return cells | {"entry_logits": logits_TK[kept_TK]}
        difference_TK = step_differences(distance_TK, kept_TK, self.schema.step)
        return cells | {"entry_steps": difference_TK[:, 1:][kept_TK[:, 1:]].astype(np.int32)}

    def unpack(self, cells: Cells) -> dict[str, Any]:
        """Return ids [T, K] and logits [T, K], -inf past a position's count.

        Raises:
            CorruptionError: the columns do not fit each other.
        """
        self.check_cells(cells)
        num_T = cells["num_entries"]
        kept_TK = kept_entries(num_T, self.schema.max_entries)
        ids_TK = np.zeros(kept_TK.shape, np.int32)
        ids_TK[kept_TK] = cells["entry_ids"]
        logits_TK = np.full(kept_TK.shape, -np.inf, np.float32)
        logits_TK[kept_TK] = self._logits_E(cells)
        return {"ids_TK": ids_TK, "logits_TK": logits_TK, "num_entries_T": num_T}

    def check_cells(self, columns: Columns) -> None:
        """Check that there are as many ids and logits as the counts say.

        Raises:
            CorruptionError: there are not.
        """
        num_T = columns["num_entries"]
        if num_T.min(initial=1) < 1 or num_T.max(initial=1) > self.schema.max_entries:
            raise CorruptionError(
                "num_entries",
                expected=f"from 1 to {self.schema.max_entries} entries at every position",
                found=f"from {num_T.min()} to {num_T.max()}",
            )
        num_entries = int(num_T.sum(dtype=np.int64))
        for name, wanted in self._lengths(num_entries, len(num_T)).items():
            if len(columns[name]) != wanted:
                raise CorruptionError(
                    name,
                    expected=f"{wanted}, by the {num_entries} entries of {len(num_T)} positions",
                    found=f"{len(columns[name])}",
                )

    def faults(self, columns: Columns, offsets: Offsets) -> Iterator[Fault]:
        """Find rows with more or fewer ids or logits than their counts say."""
        ends = np.append(0, np.cumsum(columns["num_entries"], dtype=np.int64))
        places = np.asarray(offsets["num_entries"])
        num_positions, num_entries = np.diff(places), np.diff(ends[places])
        for name, wanted in self._lengths(num_entries, num_positions).items():
            found = np.diff(offsets[name])
            if not np.array_equal(found, wanted):
                row = int((found != wanted).argmax())
                words = f"{wanted[row]} elements, by the row's counts of entries"
                yield Fault(column=name, row=row, expected=words, found=f"{found[row]}")
                return

    def keep_highest(self, cells: Cells, k: int) -> dict[str, Array]:
        """Return the cells of the `k` highest entries, those of other parts as they are.

        Raises:
            CorruptionError: the columns do not fit each other.
        """
        self.check_cells(cells)
        num_T = cells["num_entries"]
        ranks_E = np.arange(len(cells["entry_ids"])) - np.repeat(np.cumsum(num_T) - num_T, num_T)
        kept = {"num_entries": np.minimum(num_T, k), "entry_ids": cells["entry_ids"][ranks_E < k]}
        if self.schema.step is None:
            return {**cells, **kept, "entry_logits": cells["entry_logits"][ranks_E < k]}
        later_E = ranks_E[ranks_E > 0]
        return {**cells, **kept, "entry_steps": cells["entry_steps"][later_E < k]}

    def for_batches(
        self, columns: Columns, offsets: Offsets, where: str
    ) -> tuple[Columns, Offsets]:
        """Return the columns of some rows with `entry_logits` of each entry instead of steps.

        Raises:
            CorruptionError: they cannot be unpacked; the message names the first such row.
        """
        with naming_rows(self, columns, offsets, where):
            self.check_cells(columns)
        if self.schema.step is None:
            return columns, offsets
        starts = offsets["entry_ids"]
        # A table of some rows of a row group may have the others' values after its own.
        logits_E = np.empty(len(columns["entry_ids"]), np.float32)
        logits_E[starts[-1] :] = 0
        used = {column.name for column in self.columns()}
        for first, last in blocks_of_rows(starts, _BLOCK_ENTRIES):
            cells = {
                name: columns[name][offsets[name][first] : offsets[name][last]] for name in used
            }
            logits_E[starts[first] : starts[last]] = self._logits_E(cells)
        own = {name: values for name, values in columns.items() if name != "entry_steps"}
        return {**own, "entry_logits": logits_E}, {
            **{name: offsets[name] for name in own},
            "entry_logits": starts,
        }

    def _lengths(self, num_entries: Any, num_positions: Any) -> dict[str, Any]:
        """Return how long the lists are."""
        if self.schema.step is None:
            return {"entry_ids": num_entries, "entry_logits": num_entries}
        return {"entry_ids": num_entries, "entry_steps": num_entries - num_positions}

    def _logits_E(self, cells: Cells) -> Float32:
        """Return the logit of each entry; the columns fit each other."""
        if self.schema.step is None:
            return np.asarray(cells["entry_logits"], np.float32)
        num_T = cells["num_entries"]
        starts_T = np.cumsum(num_T, dtype=np.int64) - num_T
        is_later_E = np.ones(len(cells["entry_ids"]), np.bool_)
        is_later_E[starts_T] = False
        walk_E: Int64 = np.zeros(len(is_later_E), np.int64)
        walk_E[is_later_E] = cells["entry_steps"]
        np.cumsum(walk_E, out=walk_E)
        walk_E -= np.repeat(walk_E[starts_T], num_T)
        top_E = np.repeat(top_logits(cells, len(num_T)), num_T)
        return (top_E - walk_E * self.schema.step).astype(np.float32)
