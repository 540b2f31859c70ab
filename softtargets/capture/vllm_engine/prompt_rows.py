"""The targets of prompts whose hidden states come in parts, as an engine schedules them.

An engine reads many prompts at a time, each in one step or several, and may begin one again that it
had to interrupt. So rows are known by their prompt and their position: each is kept when it first
comes.

Shapes: P tokens of a prompt that come in one step, N targets of all prompts, one prompt after
another, S of which come in one step, C of which are read at once, D width of the hidden states, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from softtargets.capture.keep.keeper import Keeper, Workspace
from softtargets.capture.keep.logit_chunks import SELECTING, logit_chunks
from softtargets.capture.keep.selection import Keep
from softtargets.capture.segments import Segment


@dataclass(frozen=True, slots=True)
class PromptPart:
    """Hidden states of a prompt that one step of the engine made."""

    prompt: int
    start: int
    """Position of the first."""
    hidden_PD: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which rows this worker keeps, of the workers that all have the same logits."""

    rank: int = 0
    num_ranks: int = 1


class PromptRows:
    """Keeps the targets of prompts, those of some segments.

    Args:
        segments: one for each prompt.
        keep: what to keep of each target; None for the hidden states alone.
        make_logits: returns the logits [C, V] of hidden states.
        vocab_size: width of the logits.
        device: of the hidden states.
        share: which rows are kept here.
        workspace: to compute in.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        keep: Keep | None,
        make_logits: Callable[[torch.Tensor], torch.Tensor],
        vocab_size: int,
        device: torch.device,
        *,
        share: Share,
        workspace: Workspace | None,
    ) -> None:
        self._positions = [segment.positions_T for segment in segments]
        self._firsts = np.cumsum([0, *map(len, self._positions)])
        self._has_come_N = np.zeros(self._firsts[-1], np.bool_)
        self._make_logits = make_logits
        self._vocab_size = vocab_size
        self._device = device
        self._share = share
        self._keeper = None if keep is None else Keeper(keep, segments, device, workspace)
        self._keeps_hidden = keep is None or keep.hidden_states
        self._rows: list[torch.Tensor] = []
        self._hidden: list[torch.Tensor] = []

    def add(self, parts: Iterable[PromptPart]) -> None:
        """Keep the targets that are in what one step made; its memory may be used again."""
        rows: list[np.ndarray] = []
        hidden: list[torch.Tensor] = []
        for part in parts:
            own_S, places_S = self._new_rows(part)
            rows.append(own_S)
            places = torch.from_numpy(places_S).to(self._device)
            hidden.append(part.hidden_PD.index_select(0, places))
        if not any(map(len, rows)):
            return
        rows_S = np.concatenate(rows)
        self._has_come_N[rows_S] = True
        self._keep(torch.from_numpy(rows_S).to(self._device), torch.cat(hidden))

    def _new_rows(self, part: PromptPart) -> tuple[np.ndarray, np.ndarray]:
        """Return the targets in a part that did not come before, and where in it they are."""
        positions_T = self._positions[part.prompt]
        start, stop = np.searchsorted(positions_T, [part.start, part.start + len(part.hidden_PD)])
        own_S = np.arange(start, stop)
        own_S = own_S[~self._has_come_N[self._firsts[part.prompt] + own_S]]
        places_S = positions_T[own_S].astype(np.int64) - part.start
        return self._firsts[part.prompt] + own_S, places_S

    def _keep(self, rows_S: torch.Tensor, hidden_SD: torch.Tensor) -> None:
        own_S = self._own(rows_S)
        self._rows.append(rows_S[own_S])
        if self._keeps_hidden:
            self._hidden.append(hidden_SD[own_S])
        if self._keeper is None:
            return
        # Every worker makes all logits, as each has a part of the head.
        for chunk, logits_CV in logit_chunks(
            hidden_SD, self._make_logits, self._vocab_size, SELECTING
        ):
            rows_C = rows_S[chunk]
            own_C = self._own(rows_C)
            if len(rows_C[own_C]):
                self._keeper.add(rows_C[own_C], logits_CV[own_C])

    def _own(self, rows_S: torch.Tensor) -> slice | torch.Tensor:
        """Return which rows are kept here."""
        num_ranks = self._share.num_ranks
        return slice(None) if num_ranks == 1 else rows_S % num_ranks == self._share.rank

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what was kept here: `rows`, and what is kept of each, by its name."""
        if not self._rows or not sum(map(len, self._rows)):
            return {}
        found = {} if self._keeper is None else self._keeper.selected().tensors()
        if self._keeps_hidden:
            found["hidden_ND"] = torch.cat(self._hidden)
        return {"rows": torch.cat(self._rows), **found}


def in_order(shares: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return what several workers kept, in the order of the targets; those that came have a row.

    Args:
        shares: what `PromptRows.tensors` of each returned.
    """
    own = [share for share in shares if share]
    if not own:
        return {}
    together = {name: torch.cat([share[name] for share in own]) for name in own[0]}
    order_N = together.pop("rows").argsort()
    return {name: tensor[order_N] for name, tensor in together.items()}
