"""A window read token by token, as JSON: what came, and what the teacher expected before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from softtargets.report.predictions import Candidate, Predictions, probability
from softtargets.report.shown_windows import document_starts
from softtargets.report.tokens import TokenNames


class Reading:
    """The tokens of a window with the teacher's predictions at one temperature.

    Args:
        predictions: of the window.
        names: of the store's tokens.
        temperature: one of `predictions.temperatures`; None where there are none.
    """

    def __init__(
        self, predictions: Predictions, names: TokenNames, temperature: float | None
    ) -> None:
        self.predictions = predictions
        self.temperature = temperature
        self._names = names
        self._index = None if temperature is None else predictions.temperatures.index(temperature)

    def tokens(self, most_candidates: int) -> Iterator[dict[str, Any]]:
        """Yield every token with its prediction, if it has one; for whole windows one without."""
        window = self.predictions.window
        if self.predictions.schema.convention.is_of_windows:
            yield {
                "position": None,
                "token": "the whole window",
                **self._target(0, most_candidates),
            }
            return
        starts = document_starts(window)
        targets = self.predictions.target_of_token_L.tolist()
        for position, token_id in enumerate(window.input_ids_L.tolist()):
            own = {"position": position, "token_id": token_id, "token": self._names[token_id]}
            if position in starts:
                own["document_id"] = starts[position]
            if targets[position] >= 0:
                own |= self._target(targets[position], most_candidates)
            yield own

    def _target(self, target: int, most: int) -> dict[str, Any]:
        predictions = self.predictions
        label = predictions.label(target)
        drawn = predictions.drawn(target) if predictions.schema.head else []
        candidates = predictions.candidates(target)
        found: dict[str, Any] = {
            "is_trained": bool(predictions.window.mask_T[target]),
            "num_candidates": len(candidates),
            "candidates": [self._candidate(one) for one in candidates[:most]],
        }
        if drawn:
            found["num_drawn"] = len(drawn)
            found["drawn"] = [self._candidate(one) for one in drawn[:most]]
        if label is not None:
            found["label"] = {
                "token_id": label.token_id,
                "token": self._name(label.token_id),
                "rank": label.rank,
                "probability": self._at(label.logprobs),
            }
        if predictions.tail_mass(target) and self._index is not None:
            found["tail_mass"] = predictions.tail_mass(target)[self._index]
        if predictions.entropy(target) and self._index is not None:
            found["entropy"] = predictions.entropy(target)[self._index]
        return found

    def _candidate(self, candidate: Candidate) -> dict[str, Any]:
        return {
            "token_id": candidate.token_id,
            "token": self._name(candidate.token_id),
            "probability": self._at(candidate.logprobs),
            "logit": candidate.logit,
            "num_draws": candidate.num_draws,
            "is_estimate": candidate.is_estimate,
        }

    def _name(self, token_id: int) -> str:
        return self._names.label(token_id, self.predictions.schema)

    def _at(self, logprobs: tuple[float | None, ...]) -> float | None:
        return None if self._index is None else probability(logprobs[self._index])
