"""Example windows for the page: their tokens, and the teacher's prediction of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from softtargets.report.predictions import Candidate, Predictions, probability
from softtargets.report.shown_windows import document_starts
from softtargets.report.tokens import TokenNames
from softtargets.targets import TargetSchema
from softtargets.window import Window

MOST_TOKENS = 256
"""So many tokens of a window are shown."""
MOST_CANDIDATES = 8
MOST_DRAWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownToken:
    """A token as it stands on the page."""

    text: str
    position: int
    target: int | None
    """Which target of `Example.targets` is about it; None if none is."""
    is_trained: bool
    document: str | None
    """Id of the document that begins here."""
    ends_line: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A window as it stands on the page."""

    window_id: str
    source: str
    num_tokens: int
    tokens: list[ShownToken]
    encoder_text: list[str]
    num_encoder_tokens: int
    targets: list[dict[str, Any]]
    """Of each target what the page's script shows; as JSON."""


class Examples:
    """Example windows of one store, and the names of all tokens in them.

    Args:
        schema: of the store's targets.
        names: of its tokens.
    """

    def __init__(self, schema: TargetSchema, names: TokenNames) -> None:
        self.schema = schema
        self.windows: list[Example] = []
        self._names = names
        self._used: dict[int, str] = {}

    def add(self, window: Window) -> None:
        """Add the first `MOST_TOKENS` tokens of a window."""
        predictions = Predictions(window, self.schema)
        tokens = list(self._tokens(window, predictions))
        encoder_ids = [] if window.encoder_ids_M is None else window.encoder_ids_M.tolist()
        num_targets = max((one.target + 1 for one in tokens if one.target is not None), default=0)
        self.windows.append(
            Example(
                window_id=window.window_id,
                source=window.source,
                num_tokens=len(window),
                tokens=tokens,
                encoder_text=[self._names[one] for one in encoder_ids[:MOST_TOKENS]],
                num_encoder_tokens=len(encoder_ids),
                targets=[self._target(predictions, target) for target in range(num_targets)],
            )
        )

    def data(self) -> dict[str, Any]:
        """Return what the page's script reads, as JSON."""
        return {
            "names": {str(key): name for key, name in sorted(self._used.items())},
            "windows": [one.targets for one in self.windows],
        }

    def _tokens(self, window: Window, predictions: Predictions) -> Iterator[ShownToken]:
        starts = document_starts(window)
        if self.schema.convention.is_of_windows:
            yield self._token("the whole window", 0, 0, bool(window.mask_T[0]), None)
        target_L = predictions.target_of_token_L.tolist()
        for position, token_id in enumerate(window.input_ids_L[:MOST_TOKENS].tolist()):
            target = target_L[position] if predictions.has_choices else -1
            yield self._token(
                self._names[token_id],
                position,
                None if target < 0 else target,
                target >= 0 and bool(window.mask_T[target]),
                starts.get(position),
            )

    def _token(
        self, text: str, position: int, target: int | None, is_trained: bool, document: str | None
    ) -> ShownToken:
        return ShownToken(
            text=text,
            position=position,
            target=target,
            is_trained=is_trained,
            document=document,
            ends_line=text.endswith("\u21b5"),
        )

    def _target(self, predictions: Predictions, target: int) -> dict[str, Any]:
        candidates, drawn = predictions.candidates(target), predictions.drawn(target)
        if self.schema.head is None:
            drawn = []
        found: dict[str, Any] = {
            "top": [self._candidate(one) for one in candidates[:MOST_CANDIDATES]],
            "more": max(len(candidates) - MOST_CANDIDATES, 0),
            "drawn": [self._candidate(one) for one in drawn[:MOST_DRAWN]],
            "drawn_more": max(len(drawn) - MOST_DRAWN, 0),
            "tail": [_short(one) for one in predictions.tail_mass(target)],
            "entropy": [_short(one) for one in predictions.entropy(target)],
        }
        label = predictions.label(target)
        if label is not None:
            self._use(label.token_id)
            found["label"] = {
                "id": label.token_id,
                "rank": label.rank,
                "p": [_short(probability(one)) for one in label.logprobs],
            }
        return {name: value for name, value in found.items() if value not in ([], 0)}

    def _candidate(self, candidate: Candidate) -> list[Any]:
        """Return the id, how often it was drawn, and the probability at each temperature."""
        self._use(candidate.token_id)
        shown = [_short(probability(one)) for one in candidate.logprobs]
        return [candidate.token_id, candidate.num_draws, *shown]

    def _use(self, token_id: int) -> None:
        self._used[token_id] = self._names.label(token_id, self.schema)


def _short(number: float | None) -> float | None:
    """Return a number with four digits that count."""
    return None if number is None else float(f"{number:.4g}")
