"""Entries in planes: room for K at every position.

Ids are stored in byte planes. The kept logits are stored as the distance below the position's top
logit, rounded to steps of `step` nats and differenced along the rank. Rounding comes before
differencing, so an entry is never further than step / 2 from its logit, whatever its rank. A
difference takes half a byte; one of 15 steps or more is written as 15 and its true value goes to
the escapes, in row-major order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softtargets.errors import CorruptionError
from softtargets.targets.arrays import Array, Bool, Cells, Columns, Offsets
from softtargets.targets.entry_bytes import (
    ESCAPE,
    escape_counts,
    escape_marks,
    join_halves,
    join_ids,
    kept_entries,
    plane_names,
    quantise,
    split_halves,
    split_ids,
)
from softtargets.targets.exact_entries import ENTRY_BYTES, Entries, top_logit, top_logits
from softtargets.targets.number_formats import are_finite
from softtargets.targets.part import FINITE, LARGEST_INT, Column, Fault, Range, outside
from softtargets.targets.promises import Promise, Promises
from softtargets.targets.soft_targets import SoftTargets


@dataclass(frozen=True, slots=True)
class EntryPlanes(Entries):
    """Entries with room for K of them at every position."""

    @property
    def id_planes(self) -> tuple[str, ...]:
        """Return the names of the id planes' columns, lowest byte first."""
        return plane_names(self.vocab_size)

    def columns(self) -> Sequence[Column]:
        """Return ids, counts and logits; the first has an element for each target."""
        most, planes = self.schema.max_entries, self.id_planes
        columns = [
            Column(
                name,
                "uint8",
                "targets",
                f"ids of the kept logits, {'low byte' if index == 0 else f'byte {index}'} of each",
                width=most,
                # The lowest byte of many is as good as random (docs/layouts.md).
                is_random=index == 0 and len(planes) > 1,
                working_bytes=most * ENTRY_BYTES if index == 0 else 0,
            )
            for index, name in enumerate(planes)
        ]
        columns.append(self.counts(is_packed=False))
        if self.schema.top_logit:
            columns.append(top_logit())
        if self.schema.step is None:
            return [*columns, Column("logits", "float32", "targets", "kept logits, float32", most)]
        words = "distances between neighbouring kept logits in steps, half a byte each"
        escapes = Range(ESCAPE, LARGEST_INT, f"differences of at least {ESCAPE} steps")
        return [
            *columns,
            Column("steps", "uint8", "targets", words, width=(most + 1) // 2),
            Column(
                "escapes",
                "int32",
                "any",
                "the distances that half a byte does not hold",
                within=escapes,
                is_split=True,
            ),
        ]

    def pack(self, targets: SoftTargets) -> dict[str, Array]:
        """Return the kept entries in compact form.

        Raises:
            InputError: the logits rise along the rank, or lie too far apart to be counted in steps.
        """
        logits_TK = targets.logits_TK
        distance_TK, kept_TK = self.distances(targets)
        planes = split_ids(np.where(kept_TK, targets.ids_TK, 0), len(self.id_planes))
        cells: dict[str, Array] = dict(zip(self.id_planes, planes, strict=True))
        cells |= {"num_entries": targets.num_entries_T, "top_logit": logits_TK[:, 0]}
        if self.schema.step is None:
            return cells | {"logits": np.where(kept_TK, logits_TK, np.float32(0))}
        steps_TH, escapes_E = quantise(distance_TK, kept_TK, self.schema.step)
        return cells | {"steps": steps_TH, "escapes": escapes_E}

    def unpack(self, cells: Cells) -> dict[str, Any]:
        """Return ids [T, K] and logits [T, K], -inf past a position's count.

        Raises:
            CorruptionError: there are more or fewer escapes than steps ask for.
        """
        ids_TK = join_ids([cells[name] for name in self.id_planes])
        num_entries_T = cells["num_entries"]
        if self.schema.step is None:
            logits_TK = cells["logits"].copy()
        else:
            self.check_escapes(cells)
            difference_TK = split_halves(cells["steps"], ids_TK.shape[1]).astype(np.int64)
            difference_TK[difference_TK == ESCAPE] = cells["escapes"]
            distance_TK = np.cumsum(difference_TK, axis=1) * self.schema.step
            top_T = top_logits(cells, len(num_entries_T))
            logits_TK = (top_T[:, None] - distance_TK).astype(np.float32)
        logits_TK[~kept_entries(num_entries_T, logits_TK.shape[1])] = -np.inf
        return {"ids_TK": ids_TK, "logits_TK": logits_TK, "num_entries_T": num_entries_T}

    def check_escapes(self, cells: Cells) -> None:
        """Check that there is a difference for each step that says so.

        Raises:
            CorruptionError: there is not.
        """
        if self.schema.step is None:
            return
        marks = escape_marks(cells["steps"], self.schema.max_entries)
        wanted, found = sum(int(np.count_nonzero(mark)) for mark in marks), len(cells["escapes"])
        if wanted != found:
            raise CorruptionError(
                "escapes",
                expected=f"a difference for each of {wanted} steps that are {ESCAPE}",
                found=f"{found}",
            )

    def keep_highest(self, cells: Cells, k: int) -> dict[str, Array]:
        """Return the cells of the `k` highest entries, those of other parts as they are.

        Raises:
            CorruptionError: there are more or fewer escapes than steps ask for.
        """
        kept = {name: cells[name][:, :k] for name in self.id_planes}
        kept["num_entries"] = np.minimum(cells["num_entries"], k)
        if self.schema.step is None:
            return {**cells, **kept, "logits": cells["logits"][:, :k]}
        self.check_escapes(cells)
        steps_TK = split_halves(cells["steps"], self.schema.max_entries)
        _, ranks_E = np.nonzero(steps_TK == ESCAPE)
        kept["steps"] = join_halves(steps_TK[:, :k])
        return {**cells, **kept, "escapes": cells["escapes"][ranks_E < k]}

    def faults(self, columns: Columns, offsets: Offsets) -> Iterator[Fault]:
        """Find ids out of the vocabulary, and logits that are none."""
        yield from self._id_faults(columns, offsets)
        if self.schema.step is None:
            logits = columns["logits"]
            if not are_finite(logits, "float32"):
                is_finite = np.isfinite(logits).all(axis=1)
                yield from outside(logits, is_finite, offsets, "logits", FINITE.words)
            return
        counts = escape_counts(columns["steps"], offsets["steps"], self.schema.max_entries)
        found = np.diff(offsets["escapes"]).tolist()
        if counts != found:
            row = next(row for row, num in enumerate(counts) if num != found[row])
            yield Fault(
                column="escapes",
                row=row,
                expected=f"a difference for each of {counts[row]} steps that are {ESCAPE}",
                found=f"{found[row]}",
            )

    def _id_faults(self, columns: Columns, offsets: Offsets) -> Iterator[Fault]:
        """Find ids above the vocabulary, byte by byte from the highest, as numbers are compared."""
        is_equal: Bool | None = None
        names, largest = self.id_planes, self.vocab_size - 1
        for number in reversed(range(len(names))):
            plane = columns[names[number]]
            limit = largest >> (8 * number) & 255
            if is_equal is None:
                highest = int(plane.max(initial=0))
                is_above = None if highest <= limit else plane > limit
            else:
                highest = limit
                is_above = (plane > limit) & is_equal
            if is_above is not None and is_above.any():
                words = f"ids below {self.vocab_size}"
                yield from outside(plane, ~is_above.any(axis=1), offsets, names[number], words)
                return
            rest = largest & (1 << 8 * number) - 1
            if highest < limit or rest == (1 << 8 * number) - 1:
                return
            is_equal = plane == limit if is_equal is None else (plane == limit) & is_equal

    def promises(self, cells: Cells, targets: SoftTargets) -> Promises:
        """Yield the order of entries, and what stands past their count."""
        yield from Entries.promises(self, cells, targets)
        kept_TK = kept_entries(targets.num_entries_T, self.schema.max_entries)
        is_zero_T = ((targets.ids_TK == 0) | kept_TK).all(axis=1)
        rest_TK = cells.get("logits")
        if rest_TK is None:
            steps_TH = cells["steps"]
            rest_TK = split_halves(steps_TH, 2 * steps_TH.shape[1])
            kept_TK = kept_entries(targets.num_entries_T, rest_TK.shape[1])
        is_zero_T &= ((rest_TK == 0) | kept_TK).all(axis=1)
        yield Promise("zeros past the number of entries", is_zero_T)
