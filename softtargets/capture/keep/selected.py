"""The targets of some positions as tensors, between the teacher's device and numpy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch

from softtargets.errors import TeacherError
from softtargets.targets import (
    LAST_HIDDEN,
    Draws,
    Float32,
    Int32,
    Samples,
    SoftTargets,
    TargetSchema,
    part_of,
)

_ALL = slice(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """The targets of N positions as tensors; what the selection does not keep is None."""

    ids_NK: torch.Tensor
    logits_NK: torch.Tensor
    """By falling logit; -inf past a position's count."""
    num_entries_N: torch.Tensor
    tail_mass_NG: torch.Tensor
    logsumexp_NG: torch.Tensor | None = None
    label_logit_N: torch.Tensor | None = None
    label_rank_N: torch.Tensor | None = None
    drawn_ids_ND: torch.Tensor | None = None
    drawn_logits_ND: torch.Tensor | None = None
    hidden_ND: torch.Tensor | None = None
    """The last hidden states, in the teacher's number format."""
    token_hidden_MD: torch.Tensor | None = None
    """Those of all M tokens that were read, where these are kept instead."""
    others: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What parts of your own hold at each position, by the name of their column."""
    class_logits_NC: torch.Tensor | None = None
    states_ND: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Hidden states of named layers at each position, by the name of their feature."""
    token_states_MD: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Those of all M tokens that were read, where these are kept instead."""

    @classmethod
    def of_classes(cls, logits_NC: torch.Tensor) -> Selected:
        """Return targets that are class logits, and nothing else."""
        empty_N0 = logits_NC.new_empty((len(logits_NC), 0), dtype=torch.float32)
        return cls(
            ids_NK=empty_N0.int(),
            logits_NK=empty_N0,
            num_entries_N=torch.zeros(len(logits_NC), dtype=torch.int32, device=logits_NC.device),
            tail_mass_NG=empty_N0,
            class_logits_NC=logits_NC,
        )

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Any]) -> Selected:
        """Return the targets whose tensors are these, by field; see `tensors`."""
        return cls(**tensors)

    def cpu(self) -> Selected:
        """Return the targets on the host."""
        return self._map(lambda tensor: tensor.cpu())

    def slice(self, start: int, stop: int, tokens: slice = _ALL) -> Selected:
        """Return positions [start, stop) and what is kept of some tokens, without copying."""
        of_tokens = self.token_hidden_MD
        return replace(
            self._map(lambda tensor: tensor[start:stop]),
            token_hidden_MD=None if of_tokens is None else of_tokens[tokens],
            token_states_MD={name: one[tokens] for name, one in self.token_states_MD.items()},
        )

    def with_states(
        self, states: Mapping[str, torch.Tensor], *, at_tokens: Collection[str]
    ) -> Selected:
        """Return the targets with hidden states of named layers, of all tokens or of positions."""
        return replace(
            self,
            states_ND={name: one for name, one in states.items() if name not in at_tokens},
            token_states_MD={name: one for name, one in states.items() if name in at_tokens},
        )

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Selected:
        own: dict[str, Any] = {name: change(one) for name, one in self.tensors().items()}
        for name, named in self._named().items():
            own[name] = {key: change(one) for key, one in named.items()}
        return Selected(**own)

    def _named(self) -> dict[str, Mapping[str, torch.Tensor]]:
        """Return the tensors that have names of their own, by field."""
        return {one: getattr(self, one) for one in ("others", "states_ND", "token_states_MD")}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what is kept but for tensors that have names of their own, by field."""
        tensors = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: one for name, one in tensors.items() if isinstance(one, torch.Tensor)}

    def __len__(self) -> int:
        return len(self.num_entries_N)

    def check(self, name_rows: Callable[[list[int]], str] | None = None) -> None:
        """Check that the teacher gave numbers.

        Args:
            name_rows: says in words what some positions are of, for the message.

        Raises:
            TeacherError: a hidden state that is to be stored was not finite; or a logit was NaN or
                infinity, or a position had none above -inf.
        """
        for hidden_RD, name in (
            (self.hidden_ND, name_rows),
            (self.token_hidden_MD, None),
            *((one, name_rows) for one in self.states_ND.values()),
            *((one, None) for one in self.token_states_MD.values()),
        ):
            if hidden_RD is not None:
                is_sound_R = hidden_RD.isfinite().all(dim=1)
                _check(is_sound_R, "hidden states", "finite numbers", "NaN or infinity", name)
        is_sound_N = self.tail_mass_NG.isfinite().all(dim=1)
        if self.class_logits_NC is not None:
            # NaN and infinity stay the largest, and a row without a number has none but -inf.
            is_sound_N &= self.class_logits_NC.amax(dim=1).isfinite()
        if self.logsumexp_NG is not None:
            is_sound_N &= self.logsumexp_NG.isfinite().all(dim=1)
        expected = "numbers, and at least one above -inf at every position"
        found = "NaN, infinity or nothing but -inf"
        _check(is_sound_N, "logits", expected, found, name_rows)

    @classmethod
    def concatenate(cls, parts: list[Selected]) -> Selected:
        """Return the positions of all parts, in order; those of a single one without copying."""
        if len(parts) == 1:
            return parts[0]
        own: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts]) for name in parts[0].tensors()
        }
        for name, named in parts[0]._named().items():
            own[name] = {
                key: torch.cat([getattr(part, name)[key] for part in parts]) for key in named
            }
        return cls(**own)

    def numpy(self, schema: TargetSchema) -> SoftTargets:
        """Return targets on the host as those of a store with a schema."""
        tail_mass_TG = self.tail_mass_NG.numpy()
        return SoftTargets(
            ids_TK=self.ids_NK.numpy(),
            logits_TK=self.logits_NK.numpy(),
            num_entries_T=self.num_entries_N.numpy(),
            tail_mass_TG=tail_mass_TG,
            temperatures=schema.temperatures,
            logsumexp_TG=None if self.logsumexp_NG is None else self.logsumexp_NG.numpy(),
            label_logit_T=None if self.label_logit_N is None else self.label_logit_N.numpy(),
            label_rank_T=None if self.label_rank_N is None else self.label_rank_N.numpy(),
            samples=self._samples(schema, tail_mass_TG),
            class_logits_TC=None
            if self.class_logits_NC is None
            else self.class_logits_NC.float().numpy(),
            features=self._features(schema),
            others={name: tensor.numpy() for name, tensor in self.others.items()},
        )

    def _features(self, schema: TargetSchema) -> dict[str, Float32]:
        """Return hidden states of every feature; numpy cannot round them to bfloat16."""
        dtypes = {one.name: one.dtype for one in schema.features}
        return {
            name: (one.bfloat16() if dtypes.get(name) == "bfloat16" else one).float().numpy()
            for name, one in self.states().items()
        }

    def states(self) -> dict[str, torch.Tensor]:
        """Return hidden states [R, D] of every feature, by its name, as the teacher gave them."""
        hidden_RD = self.hidden_ND if self.token_hidden_MD is None else self.token_hidden_MD
        last = {} if hidden_RD is None else {LAST_HIDDEN: hidden_RD}
        return {**last, **self.states_ND, **self.token_states_MD}

    def _samples(self, schema: TargetSchema, tail_mass_TG: Float32) -> Samples | None:
        if schema.samples is None:
            return None
        assert self.drawn_ids_ND is not None
        assert self.drawn_logits_ND is not None
        if schema.samples.design == "threshold":
            return _drawn_once(self.drawn_ids_ND.numpy(), self.drawn_logits_ND.numpy(), schema)
        draws = part_of(schema, Draws)
        assert draws is not None
        has_draws_T = draws.num_draws_T(tail_mass_TG) > 0
        logits_TD = None if schema.samples.values == "none" else self.drawn_logits_ND.numpy()
        return count_draws(self.drawn_ids_ND.numpy(), logits_TD, has_draws_T)


def _drawn_once(drawn_ids_TD: Int32, logits_TD: Float32, schema: TargetSchema) -> Samples:
    """Return drawn ids that stand by rising id, below zero where there is none."""
    assert schema.samples is not None
    is_drawn_TD = drawn_ids_TD >= 0
    num_samples_T: Int32 = is_drawn_TD.sum(axis=1, dtype=np.int32)
    return Samples(
        num_samples_T=num_samples_T,
        ids_S=drawn_ids_TD[is_drawn_TD],
        counts_S=np.ones(num_samples_T.sum(), np.int32),
        logits_S=None if schema.samples.values == "none" else logits_TD[is_drawn_TD],
    )


def _check(
    is_sound_N: torch.Tensor,
    what: str,
    expected: str,
    found: str,
    name_rows: Callable[[list[int]], str] | None,
) -> None:
    if is_sound_N.all():
        return
    rows = (~is_sound_N).nonzero()[:, 0].tolist()
    raise TeacherError(
        what if name_rows is None else f"{what} of {name_rows(rows)}",
        expected=expected,
        found=f"{found} at {len(rows):,} of {len(is_sound_N):,} positions",
        next_step="Try --dtype float32; if it stays so, the teacher's weights are damaged.",
    )


def count_draws(
    drawn_ids_TD: np.ndarray, logits_TD: Float32 | None, has_draws_T: np.ndarray
) -> Samples:
    """Return the distinct ids of every position's draws, by rising id, with their counts."""
    order_TD = np.argsort(drawn_ids_TD, axis=1, kind="stable")
    ids_TD = np.take_along_axis(drawn_ids_TD, order_TD, axis=1)
    is_first_TD = np.diff(ids_TD, axis=1, prepend=-1) != 0
    is_first_TD &= has_draws_T[:, None]
    places = np.flatnonzero(is_first_TD)
    num_draws = drawn_ids_TD.shape[1]
    # A run of equal ids ends where the next begins, or with its position.
    ends = np.minimum(
        np.append(places[1:], is_first_TD.size), (places // num_draws + 1) * num_draws
    )
    num_samples_T: Int32 = is_first_TD.sum(axis=1, dtype=np.int32)
    return Samples(
        num_samples_T=num_samples_T,
        ids_S=ids_TD.ravel()[places].astype(np.int32),
        counts_S=(ends - places).astype(np.int32),
        logits_S=None
        if logits_TD is None
        else np.take_along_axis(logits_TD, order_TD, axis=1).ravel()[places],
    )
