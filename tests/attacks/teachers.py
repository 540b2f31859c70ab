"""Damaged teachers and token ids: a build stores nothing of them, and names the document."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from softtargets.capture import Draws, Hybrid, Pins, Sampled, TopK, TopP, build
from softtargets.capture.keep.selection import Selection
from softtargets.errors import SoftTargetsError
from tests.attacks.attack import Attack, Outcome
from tests.fakes import FakeTeacher, build_config

SELECTIONS: dict[str, Selection] = {
    "topk": TopK(k=8),
    "topk with pins": TopK(k=8, pins=Pins(ids=(7,), label=True)),
    "topp": TopP(k=8),
    "sampled": Sampled(draws=Draws(num=4)),
    "hybrid": Hybrid(k=8, draws=Draws(num=4)),
}
GRIDS = ((1.0,), (1.0, 2.0))
NUMBERS = {"NaN": torch.nan, "infinity": torch.inf, "nothing but -inf": -torch.inf}


class Damaged(FakeTeacher):
    """A teacher that gives one number instead of logits or hidden states."""

    def __init__(self, number: float, *, in_hidden: bool = False, only: int | None = None) -> None:
        super().__init__()
        self._number = number
        self._in_hidden = in_hidden
        self._only = only
        """The one id whose logit is damaged; all if there is none."""

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        hidden_BLD = super().hidden_states(input_ids_BL)
        return hidden_BLD.fill_(self._number) if self._in_hidden else hidden_BLD

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        if self._in_hidden:
            # Else the logits would tell.
            return super().logits(torch.zeros_like(hidden_ND))
        logits_NV = super().logits(hidden_ND)
        damaged = logits_NV if self._only is None else logits_NV[:, self._only]
        damaged.fill_(self._number)
        return logits_NV


def building(teacher: Callable[[], FakeTeacher], **changes: Any) -> Callable[[Path], None]:
    """Return what builds a store in the attack's directory, and fails as the command line does."""

    def run(directory: Path) -> None:
        try:
            build(build_config(directory, **changes), teacher())
        except SoftTargetsError as error:
            click.echo(str(error), err=True)
            sys.exit(1)

    return run


def _harm(directory: Path, outcome: Outcome) -> str:
    if list(directory.glob("store/**/shards/*.parquet")):
        return "a unit of it was stored"
    return "" if "corpus.jsonl:0" in outcome.output else "the document was not named"


def _logits(name: str, number: float, only: int | None = None) -> tuple[Attack, ...]:
    return tuple(
        Attack(
            kind="a teacher whose logits are no numbers",
            name=f"{name}, {selection}, {len(grid)} temperatures",
            run=building(
                partial(Damaged, number, only=only),
                selection=SELECTIONS[selection],
                temperatures=grid,
            ),
            harm=_harm,
        )
        for selection in SELECTIONS
        for grid in GRIDS
    )


ATTACKS = (
    *(attack for name, number in NUMBERS.items() for attack in _logits(name, number)),
    *_logits("one NaN", torch.nan, only=299),
    *_logits("one infinity", torch.inf, only=0),
    *(
        Attack(
            kind="a teacher whose hidden states are no numbers",
            name=name,
            run=building(partial(Damaged, number, in_hidden=True), hidden_states=True),
            harm=_harm,
        )
        for name, number in NUMBERS.items()
    ),
    Attack(
        kind="token ids that the teacher does not know",
        name="a tokenizer with more ids",
        run=building(partial(FakeTeacher, vocab_size=50)),
        harm=_harm,
    ),
)
