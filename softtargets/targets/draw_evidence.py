"""What the logits of draws must be, and what mass they prove."""

from __future__ import annotations

import numpy as np

from softtargets.targets.evidence import Evidence
from softtargets.targets.promises import Promise, Promises


def logit_promises(evidence: Evidence) -> Promises:
    """Yield what the logits of draws must be."""
    samples = evidence.targets.samples
    assert samples is not None
    assert samples.logits_S is not None
    at_S, logits_S = evidence.sample_position_S, samples.logits_S.astype(np.float64)
    if evidence.has_top:
        highest_T = np.full(evidence.num, -np.inf)
        np.maximum.at(highest_T, at_S, logits_S)
        yield Promise("drawn logits that are not above the top one", highest_T <= evidence.top_T)
        if not evidence.has_entries:
            yield Promise("a drawn logit that is the top one", highest_T == evidence.top_T)
        if evidence.is_tail_drawn and evidence.origin.keeps_highest:
            error_T = evidence.entry_error_T + evidence.draw_error
            is_below_T = highest_T <= evidence.lowest_T + error_T
            yield Promise("logits drawn from the tail that are not above the entries", is_below_T)


def mass_promises(evidence: Evidence) -> Promises:
    """Yield what mass the logits of draws prove."""
    samples = evidence.targets.samples
    assert samples is not None
    assert samples.logits_S is not None
    at_S, logits_S = evidence.sample_position_S, samples.logits_S.astype(np.float64)
    is_whole = not evidence.is_tail_drawn and not evidence.has_entries
    if not is_whole and not (evidence.is_tail_drawn and evidence.origin.is_tail_exact):
        return
    for index, temperature in enumerate(evidence.targets.temperatures):
        if evidence.is_tail_drawn:
            scale_T = evidence.top_T
            whole_T, factor_T = evidence.tail_weight_T(temperature)
        else:
            assert evidence.targets.logsumexp_TG is not None
            scale_T = evidence.targets.logsumexp_TG[:, index].astype(np.float64) * temperature
            whole_T = np.ones(evidence.num)
            factor_T = np.exp(evidence.mass_error_T(temperature, scale_T))
        drawn_T = evidence.sum_samples(np.exp((logits_S - scale_T[at_S]) / temperature))
        factor_T = factor_T * np.exp(evidence.draw_error / temperature)
        yield Promise(
            f"a mass at temperature {temperature:g} that holds what was drawn",
            evidence.is_at_most(drawn_T, whole_T, factor_T, evidence.lost),
        )
