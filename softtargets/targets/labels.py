"""Labels: the logit and the rank of each target's label.

The logit is stored as it is, or as its distance below the top logit in steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softtargets.targets.arrays import Array, Cells, Columns, Float32, Offsets
from softtargets.targets.evidence import Evidence
from softtargets.targets.exact_entries import top_logits
from softtargets.targets.part import BELOW_INFINITY, LARGEST_INT, Column, Part, Range
from softtargets.targets.promises import Promise, Promises, check
from softtargets.targets.soft_targets import SoftTargets

NO_LOGIT = LARGEST_INT
"""What stands for a logit of -inf among distances in steps."""


@dataclass(frozen=True, slots=True)
class Labels(Part):
    """What the teacher says about the label, whether or not it is among the kept ids."""

    vocab_size: int
    step: float | None = None
    """Width of the steps below the top logit; None where logits are stored as they are."""

    def columns(self) -> Sequence[Column]:
        """Return the label's logit and its rank."""
        last = self.vocab_size - 1
        ranks, words = Range(0, last, f"ranks from 0 to {last}"), "logit of the label"
        logits = Column("label_logit", "float32", "targets", words, within=BELOW_INFINITY)
        if self.step is not None:
            words = "distance of the label's logit below the highest, in steps"
            within = Range(0, NO_LOGIT, "logits that are not above the top one")
            logits = Column(
                "label_steps", "int32", "targets", words, None, within, is_split=True, is_tight=True
            )
        words = "how many logits are above the label's"
        return [
            logits,
            Column(
                "label_rank",
                "int32",
                "targets",
                words,
                within=ranks,
                is_split=True,
                is_tight=self.step is not None,
            ),
        ]

    def exactness(self, imported: Mapping[str, Any] | None) -> Iterator[str]:
        """Yield what is rounded."""
        if self.step is not None:
            yield (
                f"A label's distance below the top logit is rounded to {self.step:g} nat: off by "
                f"at most {self.step / 2:g}. Its rank is exact."
            )

    @property
    def holds(self) -> Sequence[str]:
        """Return what `SoftTargets.parts` calls both."""
        return ("label logits", "label ranks")

    def pack(self, targets: SoftTargets) -> dict[str, Array]:
        """Return both, the logit as it is or in steps.

        Raises:
            InputError: a logit to be kept in steps is NaN, above the top one, or too far below it.
        """
        logit_T, rank_T = targets.label_logit_T, targets.label_rank_T
        assert logit_T is not None
        assert rank_T is not None
        if self.step is None:
            return {"label_logit": logit_T, "label_rank": rank_T}
        distance_T = targets.logits_TK[:, 0].astype(np.float64) - logit_T
        limit = (NO_LOGIT - 1) * self.step
        words = f"labels at most {limit:.3g} nats below the position's highest logit, or at -inf"
        is_within_T = (distance_T >= 0) & ((distance_T <= limit) | (logit_T == -np.inf))
        next_step = "Omit the label's step to keep logits as they are."
        check(iter([Promise(words, is_within_T)]), "label logits", next_step=next_step)
        steps_T = np.rint(np.minimum(distance_T / self.step, NO_LOGIT))
        return {"label_steps": steps_T.astype(np.int32), "label_rank": rank_T}

    def unpack(self, cells: Cells) -> dict[str, Any]:
        """Return both as numbers; the logit is relative to the top one if that is not stored."""
        return {"label_logit_T": self._logits_T(cells), "label_rank_T": cells["label_rank"]}

    def for_batches(
        self, columns: Columns, offsets: Offsets, where: str
    ) -> tuple[Columns, Offsets]:
        """Return the columns of some rows with `label_logit` instead of its steps."""
        if self.step is None:
            return columns, offsets
        others = {name: values for name, values in columns.items() if name != "label_steps"}
        return {**others, "label_logit": self._logits_T(columns)}, {
            **{name: offsets[name] for name in others},
            "label_logit": offsets["mask"],
        }

    def _logits_T(self, cells: Cells) -> Float32:
        if self.step is None:
            return np.asarray(cells["label_logit"], np.float32)
        steps_T = cells["label_steps"]
        logit_T = (top_logits(cells, len(steps_T)) - steps_T * self.step).astype(np.float32)
        logit_T[steps_T == NO_LOGIT] = -np.inf
        return logit_T

    def contradictions(self, evidence: Evidence) -> Promises:
        """Yield what the label's logit and rank must be by all that is known of other logits."""
        logit_T, rank_T = evidence.label_logit_T, evidence.label_rank_T
        num_above_T = np.zeros(evidence.num, np.int64)
        if evidence.has_entries:
            is_top_T, error = logit_T == evidence.top_T, evidence.label_error
            # In steps, a logit just below the top one is not told from it.
            is_sound_T = is_top_T >= (rank_T == 0) if error else is_top_T == (rank_T == 0)
            yield Promise(
                "a label logit that is the top one where the label's rank is 0, and below it "
                "elsewhere",
                (logit_T <= evidence.top_T) & is_sound_T,
            )
            lower_TK = evidence.logits_TK - evidence.entry_error_T[:, None]
            is_above_TK = lower_TK > logit_T[:, None] + error
            num_above_T += is_above_TK.sum(axis=1)
            yield from _entry_promises(evidence)
            if evidence.origin.is_tail_exact:
                yield from _tail_promises(evidence)
        samples = evidence.targets.samples
        if samples is not None and samples.logits_S is not None:
            at_S = evidence.sample_position_S
            own_error = evidence.draw_error + evidence.label_error
            is_above_S = samples.logits_S - own_error > logit_T[at_S]
            is_label_S = samples.ids_S == evidence.label_ids_T[at_S]
            # Draws from the whole vocabulary would count the entries beside them twice.
            if not evidence.has_entries or evidence.is_tail_drawn:
                num_above_T += evidence.sum_samples(is_above_S.astype(np.float64)).astype(np.int64)
            is_off_S = np.abs(samples.logits_S - logit_T[at_S]) > own_error
            num_wrong_T = evidence.sum_samples((is_label_S & is_off_S).astype(np.float64))
            yield Promise(
                "a label logit that is that of the label among the draws", num_wrong_T == 0
            )
        yield Promise("no more logits above the label's than its rank", num_above_T <= rank_T)


def _entry_promises(evidence: Evidence) -> Promises:
    """Yield what the label's logit and rank must be by the entries."""
    logit_T, rank_T = evidence.label_logit_T, evidence.label_rank_T
    error_T = evidence.entry_error_T + evidence.label_error
    is_label_TK = evidence.is_label_TK
    is_kept_T, place_T = is_label_TK.any(axis=1), is_label_TK.argmax(axis=1)
    own_T = np.take_along_axis(evidence.logits_TK, place_T[:, None], axis=1)[:, 0]
    is_own_T = np.abs(own_T - logit_T) <= error_T
    yield Promise("a label logit that is that of the label's entry", ~is_kept_T | is_own_T)
    if evidence.origin.keeps_highest:
        yield Promise("a label's rank of at most its entry's", ~is_kept_T | (rank_T <= place_T))
        is_low_T = logit_T <= evidence.lowest_T + error_T
        words = "a label's logit that is not above the entries without it"
        yield Promise(words, is_kept_T | is_low_T)
        # All that are above the label are entries if they are no more than those.
        before_T = np.clip(rank_T - 1, 0, evidence.logits_TK.shape[1] - 1)
        last_T = np.take_along_axis(evidence.logits_TK, before_T[:, None], axis=1)[:, 0]
        is_within_T = (rank_T > 0) & (rank_T <= evidence.num_entries_T)
        yield Promise(
            "as many entries above the label's logit as its rank",
            ~is_within_T | (last_T >= logit_T - error_T),
        )


def _tail_promises(evidence: Evidence) -> Promises:
    """Yield what tail masses must be by the label's logit and rank."""
    logit_T, rank_T = evidence.label_logit_T, evidence.label_rank_T
    is_kept_T = evidence.is_label_TK.any(axis=1)
    # Of those above the label, at most the entries but its own are kept.
    num_T = np.maximum(rank_T - evidence.num_entries_T + is_kept_T, 0) + ~is_kept_T
    for temperature in evidence.targets.temperatures:
        weight_T, factor_T = evidence.tail_weight_T(temperature)
        factor_T = factor_T * np.exp(evidence.label_error / temperature)
        least_T = num_T * np.exp((logit_T - evidence.top_T) / temperature)
        yield Promise(
            f"a tail mass at temperature {temperature:g} that holds the label, and what is "
            "above it",
            evidence.is_at_most(least_T, weight_T, factor_T, evidence.lost),
        )
        if evidence.origin.keeps_highest:
            # Outside are those above the label, and others that are at most as high as it.
            lowest_T, label_T = (
                np.exp((one_T - evidence.top_T) / temperature)
                for one_T in (evidence.lowest_T, logit_T)
            )
            outside_T = evidence.vocab_size - evidence.num_entries_T
            above_T = np.maximum(rank_T - evidence.num_entries_T, 0)
            most_T = above_T * lowest_T + (outside_T - above_T) * label_T
            yield Promise(
                f"a tail mass at temperature {temperature:g} that ids around the label can have",
                is_kept_T | evidence.is_at_most(weight_T, most_T, factor_T**2),
            )
