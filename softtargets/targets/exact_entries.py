"""Entries: the highest logits of the vocabulary with their ids.

`EntryPlanes` and `EntryLists` store them; what both have in common is here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from softtargets.targets.arrays import Array, Bool, Cells, Float32, Float64
from softtargets.targets.entry_bytes import check_falling, kept_entries
from softtargets.targets.evidence import Evidence
from softtargets.targets.part import FINITE, Column, Part, Range
from softtargets.targets.promises import Promise, Promises
from softtargets.targets.soft_targets import SoftTargets

DEFAULT_STEP = 1 / 16
ENTRY_BYTES = 40
"""Of an entry, while `verify` checks it: measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntriesSchema:
    """Exact entries of the vocabulary, the position's highest logit among them."""

    max_entries: int
    """K: no position has more."""
    values: Literal["steps", "float32"] = "steps"
    """Whether logits are kept in steps (error at most step / 2) or lossless."""
    step: float | None = DEFAULT_STEP
    """Width of a step in nats; None unless values are kept in steps."""
    form: Literal["planes", "lists"] = "planes"
    """Whether every position has room for K entries, in planes of bytes, or the entries of all
    positions stand in one list. The list is for entries whose number varies."""
    top_logit: bool = True
    """Whether the highest logit is stored. Without it logits in steps are relative to the highest,
    whose own is 0. Probabilities do not need it."""

    def __post_init__(self) -> None:
        if self.values != "steps":
            object.__setattr__(self, "step", None)


def top_logit() -> Column:
    """Return the column of the highest stored logit, which steps count from."""
    return Column("top_logit", "float32", "targets", "the highest logit", within=FINITE)


def top_logits(cells: Cells, num_positions: int) -> Float32:
    """Return the highest logit [T] of each position; 0 where logits are relative to it."""
    if "top_logit" in cells:
        return np.asarray(cells["top_logit"], np.float32)
    if "entry_logits" in cells:
        num_T = cells["num_entries"]
        return np.asarray(cells["entry_logits"][np.cumsum(num_T) - num_T], np.float32)
    return np.zeros(num_positions, np.float32)


@dataclass(frozen=True, slots=True)
class Entries(Part):
    """The entries of targets over a vocabulary, whatever form they are stored in."""

    schema: EntriesSchema
    vocab_size: int

    def counts(self, *, is_packed: bool) -> Column:
        """Return the column of how many entries each position has."""
        most = self.schema.max_entries
        return Column(
            "num_entries",
            "int32",
            "targets",
            "how many entries are kept",
            within=Range(1, most, f"from 1 to {most} entries"),
            is_split=is_packed,
            is_tight=is_packed,
        )

    def describe(self) -> str:
        """Return how many, and how exact."""
        step = self.schema.step
        exact = "lossless" if step is None else f"within {step / 2:g} nat"
        return f"top {self.schema.max_entries} logits {exact}"

    def exactness(self, imported: Mapping[str, Any] | None) -> Iterator[str]:
        """Yield what is rounded."""
        step = self.schema.step
        if step is not None:
            exact = (
                "Rank, ids and the top logit are" if self.schema.top_logit else "Rank and ids are"
            )
            yield (
                f"A kept logit's distance below the top logit is rounded to {step:g} nat: off by "
                f"at most {step / 2:g}. {exact} exact."
            )
            if not self.schema.top_logit:
                yield "The top logit itself is not kept: logits are relative to it."
        else:
            given = "as the teacher gave them" if imported is None else "as they were imported"
            yield f"Kept logits are float32, {given}."

    @property
    def holds(self) -> Sequence[str]:
        """Return what `SoftTargets.parts` calls entries."""
        return ("head",)

    def fits(self) -> Promises:
        """Yield that the vocabulary has as many entries."""
        yield Promise(
            "at most as many entries in a head as the vocabulary has",
            self.schema.max_entries <= self.vocab_size,
        )

    def distances(self, targets: SoftTargets) -> tuple[Float64, Bool]:
        """Return how far each entry is below the first [T, K], and which of them are kept.

        Raises:
            InputError: the logits rise along the rank.
        """
        logits_TK = targets.logits_TK
        kept_TK = kept_entries(targets.num_entries_T, logits_TK.shape[1])
        distance_TK = np.zeros(logits_TK.shape, np.float64)
        np.subtract(logits_TK[:, :1].astype(np.float64), logits_TK, out=distance_TK, where=kept_TK)
        check_falling(distance_TK, kept_TK)
        return distance_TK, kept_TK

    def keep_highest(self, cells: Cells, k: int) -> dict[str, Array]:
        """Return the cells of the `k` highest entries, those of other parts as they are.

        Raises:
            CorruptionError: the columns do not fit each other.
        """
        raise NotImplementedError

    def promises(self, cells: Cells, targets: SoftTargets) -> Promises:
        """Yield the order of entries."""
        most = self.schema.max_entries
        kept_TK = kept_entries(targets.num_entries_T, most)
        # Past a count every entry gets a number of its own, so that only kept ids can be doubles.
        sorted_TK = np.sort(np.where(kept_TK, targets.ids_TK, -1 - np.arange(most)), axis=1)
        yield Promise("kept ids without doubles", (np.diff(sorted_TK, axis=1) > 0).all(axis=1))
        rises_TK = targets.logits_TK[:, 1:] > targets.logits_TK[:, :-1]
        yield Promise("logits that fall or stay along the rank", ~rises_TK.any(axis=1))

    def contradictions(self, evidence: Evidence) -> Promises:
        """Yield where the entries begin."""
        is_top_T = evidence.logits_TK[:, 0] == evidence.top_T
        yield Promise("a first entry with the top logit", is_top_T)
