"""Hidden states of named layers, watched while a teacher reads a batch.

Shapes: B segments of a batch, L their tokens, N targets of all of them, M their tokens without
padding, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from softtargets.capture.keep.selected import Selected
from softtargets.capture.segments import Segment
from softtargets.layers.recorder import recording
from softtargets.targets import FeatureSchema


class WatchedStates:
    """The states [B, L, D] of features, by name, when the teacher has read the batch."""

    def __init__(self, features: Sequence[FeatureSchema]) -> None:
        self._features = features
        self.found: dict[str, torch.Tensor] = {}

    def add_to(self, selected: Selected, segments: Sequence[Segment]) -> Selected:
        """Return what was selected of segments with the states that are kept."""
        states = {}
        for one in self._features:
            of_B = zip(self.found[one.name], segments, strict=True)
            if one.rows == "tokens":
                own = [own_LD[: len(segment)] for own_LD, segment in of_B]
            else:
                own = [own_LD[_places(segment, own_LD)] for own_LD, segment in of_B]
            states[one.name] = torch.cat(own)
        return selected.with_states(states, at_tokens=self._at_tokens)

    @property
    def _at_tokens(self) -> frozenset[str]:
        return frozenset(one.name for one in self._features if one.rows == "tokens")


@contextmanager
def watching(model: Any, features: Sequence[FeatureSchema], where: str) -> Iterator[WatchedStates]:
    """Watch the layers of a model that runs once within, as far as features need it.

    Args:
        model: of transformers.
        features: layer_N, or the last hidden states of its body.
        where: the model, for messages.

    Raises:
        InputError: its layers cannot be told apart.
    """
    watched = WatchedStates(features)
    if not features:
        yield watched
        return
    last: list[torch.Tensor] = []

    def note_last(_: torch.nn.Module, __: Any, output: Any) -> None:
        last.append(output[0])

    body: Any = getattr(model, "base_model", model)
    hook = body.register_forward_hook(note_last)
    try:
        with recording(model, where, attention=False) as records:
            yield watched
    finally:
        hook.remove()
    records.check(model.config.num_hidden_layers, where, attention=False)
    for one in features:
        # What is no layer's input is the last one.
        watched.found[one.name] = last[-1] if one.layer is None else records.states[one.layer]


def _places(segment: Segment, own_LD: torch.Tensor) -> torch.Tensor:
    """Return where the targets of a segment are."""
    return torch.from_numpy(segment.positions_T).to(own_LD.device).long()
