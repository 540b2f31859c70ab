"""Threshold draws: what is above a threshold is an entry, and each id drawn below it stands for it.

With N draws the threshold is 1 / N. The entries are every id of at least 1 / N, and the highest id
in any case. Of the others, whose mass is R, floor(N R + u) are drawn systematically (Madow 1949):
with F the running sum of N p over them and one u uniform in [0, 1), an id is drawn where
floor(F + u) rises. Its probability of being drawn is N p, so 1 / N is an unbiased estimate of its
probability (Horvitz and Thompson 1952).

An id is drawn at most once. So counts are not stored, but how many ids a position has. They are
stored by rising id, each as the number of ids between it and the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softtargets.errors import CorruptionError
from softtargets.targets.arrays import Array, Cells, Columns, Float64, Int32, Int64, Offsets
from softtargets.targets.draw_packing import (
    check_samples,
    corruption,
    out_of_vocabulary,
    pack_logits,
)
from softtargets.targets.drawn_ids import DRAW_BYTES, Draws, tight
from softtargets.targets.evidence import Evidence
from softtargets.targets.exact_entries import top_logits
from softtargets.targets.part import Column, Fault, Range
from softtargets.targets.promises import Promise, Promises
from softtargets.targets.soft_targets import Samples, SoftTargets


@dataclass(frozen=True, slots=True)
class ThresholdDraws(Draws):
    """Draws that each stand for the threshold that all entries reach."""

    @property
    def ids_column(self) -> str:
        """Return the column that has an element for each drawn id."""
        return "drawn_ids"

    def columns(self) -> Sequence[Column]:
        """Return numbers of ids, ids and logits."""
        most, last = self.schema.num_draws, self.vocab_size - 1
        words, within = "how many ids were drawn", Range(0, most, f"from 0 to {most} ids")
        columns = [tight("num_drawn", words, within, rows="targets")]
        words = "drawn ids, each as the number of ids skipped before it"
        within = Range(0, last, f"gaps from 0 to {last}")
        columns.append(tight("drawn_ids", words, within, working_bytes=DRAW_BYTES))
        return [*columns, *self.value_columns("drawn")]

    def describe(self) -> str:
        """Return what the threshold is."""
        return f"threshold draws at 1/{self.schema.num_draws}"

    def exactness(self, imported: Mapping[str, Any] | None) -> Iterator[str]:
        """Yield what they estimate."""
        yield (
            f"Every id with a probability of at least 1/{self.schema.num_draws} at temperature "
            f"{self.schema.temperature:g} is kept. The others are drawn, each at most once, and "
            f"what is drawn stands for 1/{self.schema.num_draws}: an unbiased estimate."
        )

    def fits(self) -> Promises:
        """Yield that they are from the tail, and that the grid has their temperature."""
        yield from Draws.fits(self)
        yield Promise("threshold draws from the tail", self.schema.origin == "tail")

    def pack(self, targets: SoftTargets) -> dict[str, Array]:
        """Return the draws in compact form; the ids of a position may come in any order.

        Raises:
            InputError: a position has an id twice, a negative one or too many, an id counts more
                than once, or logits are missing, not finite or above the position's top logit.
        """
        samples = targets.samples
        assert samples is not None
        num_T = samples.num_samples_T
        position_S = np.repeat(np.arange(len(num_T)), num_T)
        order_S = np.lexsort((samples.ids_S, position_S))
        ids_S = samples.ids_S[order_S].astype(np.int64)
        gaps_S = ids_S - _ids_before(ids_S, num_T) - 1
        check_samples(
            Promise("ids that are each drawn once", (samples.counts_S == 1).all()),
            Promise(f"at most {self.schema.num_draws} ids", num_T <= self.schema.num_draws),
            Promise("ids that are not negative, each once", (gaps_S >= 0).all()),
        )
        cells: dict[str, Array] = {"num_drawn": num_T, "drawn_ids": gaps_S.astype(np.int32)}
        if self.schema.values == "none":
            return cells
        top_T, step = targets.logits_TK[:, 0], self.schema.step
        return cells | pack_logits("drawn", samples, order_S, position_S, top_T, step)

    def unpack(self, cells: Cells) -> dict[str, Any]:
        """Return the draws to compute with.

        Raises:
            CorruptionError: the columns do not fit each other, or an id is not in the vocabulary.
        """
        self._check_lengths(cells)
        num_T, gaps_S = cells["num_drawn"], cells["drawn_ids"]
        walk = np.append(0, np.cumsum(gaps_S.astype(np.int64) + 1))
        ids_S = walk[1:] - np.repeat(walk[np.cumsum(num_T) - num_T] + 1, num_T)
        if len(ids_S) and not (ids_S.min() >= 0 and ids_S.max() < self.vocab_size):
            raise out_of_vocabulary(self.vocab_size, f"from {ids_S.min()} to {ids_S.max()}")
        logits_S = cells.get("drawn_logits")
        if self.schema.step is not None:
            top_S = np.repeat(top_logits(cells, len(num_T)), num_T)
            logits_S = (top_S - cells["drawn_steps"] * self.schema.step).astype(np.float32)
        samples = Samples(
            num_samples_T=num_T,
            ids_S=ids_S.astype(np.int32),
            counts_S=np.ones(len(ids_S), np.int32),
            logits_S=logits_S,
        )
        return {"samples": samples}

    def check_cells(self, columns: Columns) -> None:
        """Check that draws can be unpacked, by the highest id of each position alone.

        Raises:
            CorruptionError: the columns do not fit each other, or an id is not in the vocabulary.
        """
        self._check_lengths(columns)
        gaps_S, num_T = columns["drawn_ids"], columns["num_drawn"]
        if not len(gaps_S):
            return
        # Positions without ids have no sum, and reduceat would give them one.
        own = num_T[num_T > 0].astype(np.int64)
        sums = np.add.reduceat(gaps_S, np.cumsum(own) - own, dtype=np.int64)
        highest = int((sums + own).max()) - 1
        if gaps_S.min() < 0 or highest >= self.vocab_size:
            raise out_of_vocabulary(self.vocab_size, f"gaps from {gaps_S.min()}, to {highest}")

    def faults(self, columns: Columns, offsets: Offsets) -> Iterator[Fault]:
        """Find rows with more or fewer ids or logits than their numbers say."""
        ends = np.append(0, np.cumsum(columns["num_drawn"], dtype=np.int64))
        wanted = np.diff(ends[np.asarray(offsets["num_drawn"])])
        for name in (column.name for column in self.columns() if column.rows == "any"):
            found = np.diff(offsets[name])
            if not np.array_equal(found, wanted):
                row = int((found != wanted).argmax())
                words = f"{wanted[row]} elements, by the row's numbers of ids"
                yield Fault(column=name, row=row, expected=words, found=f"{found[row]}")
                return

    def contradictions(self, evidence: Evidence) -> Promises:
        """Yield that entries reach the threshold, draws do not, and how many there can be."""
        yield from Draws.contradictions(self, evidence)
        if not evidence.origin.is_tail_exact:
            return
        temperature, most = self.schema.temperature, self.schema.num_draws
        threshold, error_T = -np.log(most), _logprob_error_T(evidence, temperature)
        logprobs_TK = evidence.targets.logprobs_TK(temperature)[:, 1:]
        is_below_TK = (logprobs_TK < threshold - error_T[:, None]) & evidence.is_kept_TK[:, 1:]
        words = f"entries but the first of at least 1/{most}"
        yield Promise(words, ~is_below_TK.any(axis=1))
        samples = evidence.targets.samples
        assert samples is not None
        if samples.logits_S is not None:
            at_S = evidence.sample_position_S
            scaled_S = samples.logits_S.astype(np.float64) / temperature
            own_S = scaled_S - evidence.targets.logsumexp_T(temperature)[at_S]
            allowed_S = threshold + error_T[at_S] + evidence.draw_error / temperature
            num_above_T = evidence.sum_samples((own_S > allowed_S).astype(np.float64))
            yield Promise(f"drawn ids below 1/{most}", num_above_T == 0)
        odds_T, error_T = evidence.odds_T(temperature), evidence.odds_error_T(temperature)
        # Odds that are nothing stay so, by whatever factor they are off.
        has_tail_T, smaller_T = odds_T > 0, np.exp(-error_T)
        least_T = np.floor(most * odds_T * smaller_T / (1 + odds_T * smaller_T))
        highest_T = np.where(has_tail_T, odds_T / (odds_T + smaller_T), 0)
        most_T = np.floor(most * highest_T) + has_tail_T
        is_possible_T = (samples.num_samples_T >= least_T) & (samples.num_samples_T <= most_T)
        words = f"as many drawn ids as a tail of its mass gives, {most} times that within one"
        yield Promise(words, is_possible_T)

    def num_draws_T(self, tail_mass_TG: Array) -> Int32:
        """Return how many ids [T] there can be at most: none from a tail without mass."""
        mass_T = tail_mass_TG[:, self.grid.temperatures.index(self.schema.temperature)]
        return np.where(mass_T == 0, 0, self.schema.num_draws).astype(np.int32)

    def _check_lengths(self, cells: Cells) -> None:
        num_T, num_ids = cells["num_drawn"], len(cells["drawn_ids"])
        values = [cells[one.name] for one in self.value_columns("drawn")]
        is_sound = num_T.min(initial=0) >= 0 and num_T.sum(dtype=np.int64) == num_ids
        if not is_sound or any(len(one) != num_ids for one in values):
            raise self._lengths_error(cells)

    def _lengths_error(self, cells: Cells) -> CorruptionError:
        return corruption(
            "an id and a logit for each that was drawn",
            f"{len(cells['drawn_ids'])} ids for numbers that sum to {cells['num_drawn'].sum()}",
        )


def _ids_before(ids_S: Int64, num_T: Int32) -> Int64:
    """Return the id before each in its position; -1 before the first."""
    before_S = np.append(-1, ids_S[:-1])[: len(ids_S)]
    starts_T = np.cumsum(num_T) - num_T
    before_S[starts_T[num_T > 0]] = -1
    return before_S


def _logprob_error_T(evidence: Evidence, temperature: float) -> Float64:
    """Return what log-probabilities may be off by: an entry, the sum of all, and what R leaves."""
    return 2 * evidence.entry_error_T / temperature + evidence.odds_error_T(temperature) + 1e-6
