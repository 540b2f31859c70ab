"""Draws: ids drawn from the teacher's distribution, or from its tail, with their counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from softtargets.targets.arrays import Array, Bool, Cells, Columns, Float32, Int32, Offsets
from softtargets.targets.blocks import blocks_of_rows
from softtargets.targets.draw_evidence import logit_promises, mass_promises
from softtargets.targets.draw_packing import check_draws, highest_logits, pack_draws, unpack_draws
from softtargets.targets.entry_bytes import kept_entries
from softtargets.targets.evidence import Evidence
from softtargets.targets.exact_entries import DEFAULT_STEP, top_logit
from softtargets.targets.grid import Grid
from softtargets.targets.part import FINITE, LARGEST_INT, Column, Part, Range, naming_rows
from softtargets.targets.promises import Promise, Promises
from softtargets.targets.soft_targets import SoftTargets, temperature_index

_BLOCK_SAMPLES = 1 << 14
DRAW_BYTES = 100
"""Of a draw, while `verify` checks it: measured."""
_BESIDE = ("top_logit", "num_entries", "entry_logits")
"""Columns of entries that the top logit may follow from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawsSchema:
    """Ids drawn from the teacher's distribution, or from its tail."""

    num_draws: int
    """N: how many at every position, none where there is nothing to draw from. Of threshold draws
    each stands for 1 / N."""
    origin: Literal["all", "tail"]
    """Drawn from the whole vocabulary, or from what is outside the entries."""
    temperature: float
    """Of the softmax that was drawn from; one of the grid."""
    values: Literal["none", "steps", "float32"] = "none"
    """How the drawn ids' logits are kept; weights at another temperature need them."""
    step: float | None = DEFAULT_STEP
    """Width of a step in nats; None unless values are kept in steps."""
    design: Literal["independent", "systematic", "threshold"] = "independent"
    """How they were drawn.

    independent: with replacement, and kept with their counts.
    systematic: by one uniform number u, at (u + j) / N for j from 0 to N - 1; kept with their
    counts too.
    threshold: the highest id and every other id of at least 1 / N is an entry. Of the rest, whose
    mass is R, floor(N R + u) ids are drawn systematically, each at most once. The estimate of a
    drawn id's probability is 1 / N. Their number is stored instead of counts.
    """

    def __post_init__(self) -> None:
        if self.values != "steps":
            object.__setattr__(self, "step", None)

    @property
    def weighs_tail(self) -> bool:
        """Return whether a draw stands for R / N, R being the tail's mass, and not for 1 / N."""
        return self.origin == "tail" and self.design != "threshold"


@dataclass(frozen=True, slots=True)
class Draws(Part):
    """The draws of targets over a vocabulary."""

    schema: DrawsSchema
    vocab_size: int
    grid: Grid

    @property
    def ids_column(self) -> str:
        """Return the column that has an element for each drawn id."""
        return "sample_gaps"

    @property
    def has_own_top(self) -> bool:
        """Return whether its steps count from a logit of its own: there are no entries."""
        return self.schema.values == "steps" and not self.grid.has_entries

    def columns(self) -> Sequence[Column]:
        """Return counts, ids and logits; how many ids there are follows from the counts."""
        columns = [top_logit()] if self.has_own_top else []
        most, last = self.schema.num_draws, self.vocab_size - 1
        words = "how many ids were drawn more than once"
        within = Range(0, most, f"from 0 to {most} ids")
        columns.append(tight("num_repeated", words, within, rows="targets"))
        words = "how often each of them was drawn"
        columns.append(tight("repeated_counts", words, Range(2, most, f"counts from 2 to {most}")))
        words = "drawn ids, each as the number of ids skipped before it"
        within = Range(0, last, f"gaps from 0 to {last}")
        columns.append(tight("sample_gaps", words, within, working_bytes=DRAW_BYTES))
        return [*columns, *self.value_columns("sample")]

    def value_columns(self, prefix: str) -> Iterator[Column]:
        """Yield the column of the drawn ids' logits, if they are kept."""
        if self.schema.values == "steps":
            words = "distance of each drawn id's logit below the highest, in steps"
            within = Range(0, LARGEST_INT, "logits that are not above the top one")
            yield tight(f"{prefix}_steps", words, within)
        elif self.schema.values == "float32":
            words = "logit of each drawn id"
            yield Column(f"{prefix}_logits", "float32", "any", words, within=FINITE)

    def describe(self) -> str:
        """Return how many there are."""
        tail = " of the tail" if self.schema.origin == "tail" else ""
        systematic = "systematic " if self.schema.design == "systematic" else ""
        return f"{self.schema.num_draws} {systematic}draws{tail}"

    def exactness(self, imported: Mapping[str, Any] | None) -> Iterator[str]:
        """Yield what they estimate."""
        where = "the tail" if self.schema.origin == "tail" else "the whole vocabulary"
        yield (
            f"{self.schema.num_draws} ids a target are drawn from {where} at temperature "
            f"{self.schema.temperature:g}: their counts are an unbiased estimate."
        )

    @property
    def holds(self) -> Sequence[str]:
        """Return what `SoftTargets.parts` calls draws."""
        return ("samples",)

    def fits(self) -> Promises:
        """Yield that there is what they were drawn from."""
        is_known = self.schema.temperature in self.grid.temperatures
        yield Promise("samples drawn at a temperature of the grid", is_known)
        is_sound = self.schema.origin == "all" or self.grid.has_entries
        yield Promise("samples of a tail beside a head", is_sound)

    def num_draws_T(self, tail_mass_TG: Float32) -> Int32:
        """Return how many draws [T] every position has: none from a tail without mass."""
        return self._num_draws_T(len(tail_mass_TG), tail_mass_TG[:, self._index])

    def pack(self, targets: SoftTargets) -> dict[str, Array]:
        """Return the draws in compact form, see `pack_draws`.

        Raises:
            InputError: as `pack_draws` does.
        """
        samples = targets.samples
        assert samples is not None
        cells: dict[str, Array] = {}
        if self.has_own_top:
            cells["top_logit"] = highest_logits(samples)
        top_logit_T = targets.logits_TK[:, 0] if self.grid.has_entries else cells.get("top_logit")
        return cells | pack_draws(
            samples,
            self.num_draws_T(targets.tail_mass_TG),
            top_logit_T,
            has_logits=self.schema.values != "none",
            step=self.schema.step,
        )

    def unpack(self, cells: Cells) -> dict[str, Any]:
        """Return the draws to compute with.

        Raises:
            CorruptionError: the columns do not fit each other, or an id is not in the vocabulary.
        """
        draws_T, step = self._drawn_T(cells), self.schema.step
        return {"samples": unpack_draws(cells, draws_T, step, self.vocab_size)}

    def check_cells(self, columns: Columns) -> None:
        """Check that draws can be unpacked.

        Raises:
            CorruptionError: the columns do not fit each other, or an id is not in the vocabulary.
        """
        check_draws(columns, self._drawn_T(columns), self.vocab_size)

    def for_batches(
        self, columns: Columns, offsets: Offsets, where: str
    ) -> tuple[Columns, Offsets]:
        """Return the columns of some rows with their draws unpacked.

        Instead of the stored columns there are `num_samples`, for each position, and `sample_ids`,
        `sample_counts` and, where the store has them, `sample_logits`, for each sample.

        Raises:
            CorruptionError: they cannot be unpacked; the message names the first such row.
        """
        places, starts = offsets["mask"], offsets[self.ids_column]
        stored = {column.name for column in self.columns()} - {"top_logit"}
        others = {name: values for name, values in columns.items() if name not in stored}
        unpacked = {
            "num_samples": np.empty(places[-1], np.int32),
            "sample_ids": np.empty(starts[-1], np.int32),
            "sample_counts": np.empty(starts[-1], np.int32),
        }
        if self.schema.values != "none":
            unpacked["sample_logits"] = np.empty(starts[-1], np.float32)
        used = {*stored, *_BESIDE, *self.grid.stored_names} & columns.keys()
        for first, last in blocks_of_rows(starts, _BLOCK_SAMPLES):
            cells = {
                name: columns[name][offsets[name][first] : offsets[name][last]] for name in used
            }
            with naming_rows(self, columns, offsets, where):
                samples = self.unpack(cells)["samples"]
            unpacked["num_samples"][places[first] : places[last]] = samples.num_samples_T
            own = slice(starts[first], starts[last])
            unpacked["sample_ids"][own] = samples.ids_S
            unpacked["sample_counts"][own] = samples.counts_S
            if samples.logits_S is not None:
                unpacked["sample_logits"][own] = samples.logits_S
        return {**others, **unpacked}, {
            **{name: offsets[name] for name in others},
            **dict.fromkeys(unpacked, starts),
            "num_samples": places,
        }

    def promises(self, cells: Cells, targets: SoftTargets) -> Promises:
        """Yield that ids are there once, and not beside themselves as entries."""
        samples = targets.samples
        assert samples is not None
        position_S = np.repeat(np.arange(len(targets)), samples.num_samples_T)

        def everywhere(holds_S: Bool) -> Bool:
            holds_T = np.ones(len(targets), np.bool_)
            holds_T[position_S[~holds_S]] = False
            return holds_T

        # An id that stands both among the repeated and the single ones is twice in its position.
        keys_S = position_S.astype(np.int64) * self.vocab_size + samples.ids_S
        unique, counts = np.unique(keys_S, return_counts=True)
        is_once_S = ~np.isin(keys_S, unique[counts > 1])
        yield Promise("sampled ids without doubles", everywhere(is_once_S))
        if self.schema.origin == "tail":
            kept_TK = kept_entries(targets.num_entries_T, targets.ids_TK.shape[1])
            is_own_SK = targets.ids_TK[position_S] == samples.ids_S[:, None]
            is_entry_S = (is_own_SK & kept_TK[position_S]).any(axis=1)
            yield Promise("samples outside the head", everywhere(~is_entry_S))

    def contradictions(self, evidence: Evidence) -> Promises:
        """Yield what the logits of draws must be, and what mass they prove."""
        if self.schema.values != "none":
            yield from logit_promises(evidence)
            yield from mass_promises(evidence)

    @property
    def _index(self) -> int:
        return temperature_index(self.grid.temperatures, self.schema.temperature)

    def _drawn_T(self, cells: Cells) -> Int32:
        tail_mass_T = self.grid.numbers_T(cells, self._index)
        return self._num_draws_T(len(cells["num_repeated"]), tail_mass_T)

    def _num_draws_T(self, num_positions: int, tail_mass_T: Float32) -> Int32:
        draws_T = np.full(num_positions, self.schema.num_draws, np.int32)
        if self.schema.origin == "tail":
            draws_T[tail_mass_T == 0] = 0
        return draws_T


def tight(
    name: str,
    words: str,
    within: Range,
    *,
    rows: Literal["targets", "any"] = "any",
    working_bytes: int = 0,
) -> Column:
    """Return a column of small numbers, which zstd packs tightly only at its highest level."""
    return Column(
        name,
        "int32",
        rows,
        words,
        within=within,
        is_split=True,
        is_tight=True,
        working_bytes=working_bytes,
    )
