"""The hypotheses nearest to a reference: by sentence BLEU (Kim and Rush 2016, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

from softtargets.errors import InputError
from softtargets.generation.hypotheses import Hypothesis


def nearest(
    hypotheses: Sequence[Hypothesis], reference: str
) -> list[tuple[Hypothesis, float | None]]:
    """Return hypotheses with their BLEU, from 0 to 100, nearest first; likelier ones before others.

    Raises:
        InputError: sacrebleu is not installed.
    """
    try:
        from sacrebleu import sentence_bleu
    except ImportError as error:
        raise InputError(
            "--nearest-reference",
            expected="sacrebleu, which measures how near",
            found="none installed",
            next_step="pip install 'softtargets[translation]'",
        ) from error
    scored = [(float(sentence_bleu(one.text, [reference]).score), one) for one in hypotheses]
    nearest_first = sorted(scored, key=lambda pair: pair[0], reverse=True)
    return [(one, bleu) for bleu, one in nearest_first]
