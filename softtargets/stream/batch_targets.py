"""Targets on a device: distributions, made from the compact tensors of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from softtargets.errors import TemperatureError
from softtargets.targets import TargetSchema, temperature_index
from softtargets.targets.entry_bytes import ESCAPE, plane_names


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTargets:
    """The teacher's distributions at one temperature.

    Position t of a row is the distribution of its token t + 1. At every position the entries and
    the tail sum to one; where there is no target, all mass is in the tail. A store of samples alone
    has K = 0, and all mass is in the tail too.
    """

    ids: torch.Tensor
    """[B, L, K] int64: kept vocabulary ids, by falling probability."""
    logprobs: torch.Tensor
    """[B, L, K] float32: their log-probabilities in nats; -inf for an entry that is not kept."""
    tail_logmass: torch.Tensor
    """[B, L] float32: log of the probability of all other ids together."""
    mask: torch.Tensor
    """[B, L] bool: where there is a target to train on."""
    sample_ids: torch.Tensor | None = None
    """[B, L, S] int64: distinct ids drawn from the tail; None when the store has no samples."""
    sample_weights: torch.Tensor | None = None
    """[B, L, S] float32: unbiased estimates of their probabilities; 0 for an id that pads.

    At another temperature than the draws' they need not sum to the tail's mass: to normalise them
    would bias them.
    """


class BatchDecoder:
    """Makes distributions of a batch's tensors.

    Args:
        batch: as it was collated.
        schema: what its targets are. The draws may have been taken out of a batch: their mass is
            in the tail, too.
    """

    def __init__(self, batch: Mapping[str, Any], schema: TargetSchema) -> None:
        self._batch = batch
        self._schema = schema
        self._entries = schema.entries
        self._draws = schema.draws if "sample_ids" in batch else None

    @property
    def _is_listed(self) -> bool:
        return self._entries is not None and self._entries.form == "lists"

    def soft_targets(self, temperature: float) -> BatchTargets:
        """Return the targets at a temperature of the grid.

        Raises:
            TemperatureError: it is not in the grid.
        """
        index = self._index(temperature)
        mask: torch.Tensor = self._batch["target_mask"]
        logits = self._logits()
        if self._entries is not None:
            ids = self._ids()
            tail_logmass = self._batch["tail_mass"][..., index].log()
        else:
            ids = torch.empty(logits.shape, dtype=torch.int64, device=mask.device)
            tail_logmass = torch.zeros(mask.shape, device=mask.device)
        targets = BatchTargets(
            ids=ids,
            logprobs=logits / temperature - self._logsumexp(logits, temperature)[..., None],
            tail_logmass=tail_logmass,
            mask=mask,
        )
        if self._draws is None:
            return targets
        return replace(
            targets,
            sample_ids=self._batch["sample_ids"].long(),
            sample_weights=self._sample_weights(logits, temperature),
        )

    def renormalized_targets(self, temperature: float) -> BatchTargets:
        """Return the entries, of which there are some, as if they were all there is."""
        scaled = self._logits() / temperature
        is_target = self._batch["num_entries"] > 0
        whole = scaled.logsumexp(dim=-1).masked_fill(~is_target, 0)
        return BatchTargets(
            ids=self._ids(),
            logprobs=scaled - whole[..., None],
            tail_logmass=torch.where(is_target, -torch.inf, 0.0),
            mask=self._batch["target_mask"],
        )

    def _index(self, temperature: float) -> int:
        return temperature_index(self._batch["temperatures"], temperature)

    def _ids(self) -> torch.Tensor:
        """Return the ids of entries [B, L, K]; with lists K is the most of the batch."""
        if self._is_listed:
            listed: torch.Tensor = self._batch["entry_ids"].long()
            return listed
        planes = [self._batch[name] for name in plane_names(self._schema.vocab_size)]
        ids = sum(plane.long() << (8 * number) for number, plane in enumerate(planes))
        assert isinstance(ids, torch.Tensor)
        return ids

    def _sample_weights(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return R c / N at the draws' temperature, and that times t^(T) / t at another.

        R is the tail's mass where the draws share it, else 1: threshold draws stand for 1 / N each.
        """
        assert self._draws is not None
        drawn_at = self._draws.temperature
        weights: torch.Tensor = self._batch["sample_counts"] / self._draws.num_draws
        if self._draws.weighs_tail:
            weights = weights * self._batch["tail_mass"][..., self._index(drawn_at), None]
        if temperature != drawn_at:
            own = self._sample_logits(temperature)
            ratio = own / temperature - self._logsumexp(logits, temperature)[..., None]
            ratio = ratio - (own / drawn_at - self._logsumexp(logits, drawn_at)[..., None])
            # Where nothing was drawn the logits mean nothing.
            weights = torch.where(weights > 0, weights * ratio.exp(), 0)
        return weights

    def _sample_logits(self, temperature: float) -> torch.Tensor:
        assert self._draws is not None
        if self._draws.values == "none":
            raise TemperatureError(
                f"temperature {temperature:g}",
                expected="the logits of the drawn ids, to weigh them anew",
                found=f"draws at temperature {self._draws.temperature} without logits",
                next_step="Pass that temperature, or build the store with both in the grid.",
            )
        logits: torch.Tensor = self._batch["sample_logits"]
        return logits

    def _logsumexp(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return log(sum over the vocabulary of exp(z / T)) [B, L]; 0 where there is no target."""
        index = self._index(temperature)
        if self._entries is None:
            stored: torch.Tensor = self._batch["logsumexp"][..., index]
            return stored
        kept = (logits / temperature).logsumexp(dim=-1)
        whole = kept - torch.log1p(-self._batch["tail_mass"][..., index])
        return whole.masked_fill(self._batch["num_entries"] == 0, 0)

    def _logits(self) -> torch.Tensor:
        """Return the logits of entries [B, L, K], -inf for an entry that is not kept."""
        if self._entries is None:
            mask = self._batch["target_mask"]
            return torch.empty((*mask.shape, 0), device=mask.device)
        if self._is_listed:
            logits: torch.Tensor = self._batch["entry_logits"]
        elif self._entries.step is None:
            logits = self._batch["logits"]
        else:
            steps = split_steps(self._batch["steps"], self._entries.max_entries).int()
            steps = _fill_escapes(steps, self._batch["escapes"])
            distance = steps.cumsum(dim=-1) * self._entries.step
            logits = -distance
            if self._entries.top_logit:
                logits = self._batch["top_logit"][..., None] - distance
        ranks = torch.arange(logits.shape[-1], device=logits.device)
        return logits.masked_fill(ranks >= self._batch["num_entries"][..., None], -torch.inf)


def split_steps(halves: torch.Tensor, num_entries: int) -> torch.Tensor:
    """Split bytes [..., H] into half-bytes [..., K], as `entry_bytes.split_halves` does it."""
    return torch.cat([halves & 15, halves >> 4], dim=-1)[..., :num_entries]


def _fill_escapes(steps_BLK: torch.Tensor, escapes_BE: torch.Tensor) -> torch.Tensor:
    """Return the steps with each row's escapes in their places."""
    flat_BM = steps_BLK.flatten(1)
    is_escape_BM = flat_BM == ESCAPE
    # A place at the end of a row for each escape that only pads it; nothing waits for the device.
    ranks_E = torch.arange(escapes_BE.shape[1], device=escapes_BE.device)
    is_padding_BE = ranks_E >= is_escape_BM.sum(dim=1, keepdim=True)
    filled = torch.cat([flat_BM, escapes_BE], dim=1).masked_scatter_(
        torch.cat([is_escape_BM, is_padding_BE], dim=1), escapes_BE
    )
    return filled[:, : flat_BM.shape[1]].view_as(steps_BLK)
