"""Batches: compact tensors, and soft targets made from them on any device."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass, replace
from typing import Any

import torch

from softtargets.errors import InputError, TemperatureError
from softtargets.packing.head import ESCAPE
from softtargets.stream.attention import token_mask
from softtargets.targets import temperature_index

IGNORE_INDEX = -100
"""The label of a token that no loss counts, as in torch and transformers."""


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


_AT_TOKENS = {
    "attention_mask", "hidden_states", "input_ids", "label_logit", "label_rank", "labels", "logits",
    "logsumexp", "num_entries", "position_ids", "sample_counts", "sample_ids", "sample_logits",
    "segment_ids", "steps", "tail_mass", "target_mask", "top_logit",
}  # fmt: skip
"""Tensors [B, L, ...], as are the id planes."""
_PLANE = "id_plane_"
_FLOAT32 = {"label_logit", "logits", "logsumexp", "sample_logits", "tail_mass", "top_logit"}
"""Numbers that every target is computed from: half of their bits would be another target."""


class Batch(UserDict[str, Any]):
    """A mapping of tensors, padded on the right to the longest window.

    A student reads `student_inputs(batch)`, and of this mapping `input_ids`, `attention_mask` and
    `labels` [B, L] int64. `labels` are the input ids where a target is trained on and -100
    elsewhere, not shifted, as transformers wants them. `num_tokens` [B] are the tokens of each row.

    Where documents share a row the teacher read each by itself, from position 0. `segment_ids`
    [B, L] tells which tokens are of one document, `position_ids` where they stand in it.
    `attention_mask` is then an object that refuses every use: a mask of padding would let the
    documents see each other.

    `window_id` is a list of B strings, `num_targets` the number of targets to train on,
    `num_segments` the most documents of a row.
    `hidden_states` [B, L, D], if the store has them, are the teacher's last ones in its number
    format, zeros where there is no target. The rest are the packed targets: read them with
    `soft_targets`.

    Every tensor but single numbers has a row for each window.
    """

    def __repr__(self) -> str:
        """Return a line on what there is: `print(batch)` would else fill the screen."""
        ids = self.data.get("input_ids")
        parts = [] if ids is None else [f"input_ids={list(ids.shape)} on {ids.device}"]
        windows = {one for rows in self.data.get("window_id", []) for one in rows.split()}
        parts.append(f"windows={len(windows)}")
        for name in ("num_targets", "num_segments", "temperatures", "vocab_size"):
            if name in self.data:
                parts.append(f"{name}={self.data[name]}")
        return f"Batch({', '.join(parts)})"

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the batch on a device; the compact form is what travels.

        Args:
            device: where to.
            non_blocking: whether the copy may still run on the way to an accelerator, which waits
                for it where it must. The CPU would not, so copies to it are always complete.
        """
        non_blocking = non_blocking and torch.device(device).type != "cpu"
        return Batch(
            {
                name: value.to(device, non_blocking=non_blocking)
                if isinstance(value, torch.Tensor)
                else value
                for name, value in self.items()
            }
        )

    def token_mask(self) -> torch.Tensor:
        """Return where there is a token and no padding, [B, L] bool."""
        return token_mask(self["num_tokens"], self["input_ids"].shape[-1])

    def causal_mask(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return which tokens a token may see [B, 1, L, L]: those of its document up to itself.

        For a model that takes `position_ids` and such a mask; one of transformers needs neither, it
        reads `student_inputs(batch)`. Where there is no token, it sees itself.

        Args:
            dtype: None for bool, which attention "sdpa" of transformers takes, but "eager" adds to
                its scores, without a word. The model's number format for numbers to be added, 0
                where a token may be seen, which both take.
        """
        segments, is_token = self["segment_ids"], self.token_mask()
        length = segments.shape[1]
        square = torch.ones((length, length), dtype=torch.bool, device=segments.device)
        is_same = segments[:, :, None] == segments[:, None, :]
        is_seen = is_same & is_token[:, None, :] & square.tril()
        is_seen |= torch.eye(length, dtype=torch.bool, device=segments.device)
        seen: torch.Tensor = is_seen[:, None]
        if dtype is None:
            return seen
        added = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return added.masked_fill_(~seen, torch.finfo(dtype).min)

    def check(self) -> None:
        """Check that the batch is as it was collated, whatever moved it.

        Raises:
            InputError: a tensor has other rows than there are windows, other positions than there
                are tokens, or another number format: what wrapped the loader has sliced, joined or
                converted them.
        """
        num_windows, num_tokens = len(self["window_id"]), self["input_ids"].shape[-1]
        tensors = {name: one for name, one in self.items() if isinstance(one, torch.Tensor)}
        for name, value in tensors.items():
            if value.ndim and len(value) != num_windows:
                raise InputError(
                    f"Batch, {name}",
                    expected=f"{num_windows} rows, one for each window_id",
                    found=f"{len(value)}",
                    next_step="Something has sliced or joined batches: let the dataset alone share "
                    "windows among ranks, see docs/trainers.md.",
                )
            is_at_tokens = name in _AT_TOKENS or name.startswith(_PLANE)
            if is_at_tokens and value.shape[1] != num_tokens:
                raise InputError(
                    f"Batch, {name}",
                    expected=f"{num_tokens} positions, as many as input_ids has",
                    found=f"{value.shape[1]}",
                    next_step="Cut or pad all tensors of a batch alike, or none.",
                )
            if name in _FLOAT32 and value.dtype != torch.float32:
                raise InputError(
                    f"Batch, {name}",
                    expected="float32, as stored",
                    found=f"{value.dtype}",
                    next_step="Let the trainer convert the student only, not batches: with "
                    "Lightning, precision 'bf16-mixed' instead of 'bf16-true'.",
                )

    def soft_targets(self, temperature: float = 1.0) -> BatchTargets:
        """Return the targets at one of the stored temperatures, on the batch's device.

        log p_i = z_i / T - logsumexp_K(z / T) + log(1 - tail), see `SoftTargets.logprobs_TK`.

        Raises:
            TemperatureError: the temperature is not in the store's grid.
            InputError: the batch is not as it was collated, see `check`.
        """
        self.check()
        index = temperature_index(self["temperatures"], temperature)
        mask = self["target_mask"]
        logits = self._logits()
        if "tail_mass" in self:
            ids = self._ids()
            tail_logmass = self["tail_mass"][..., index].log()
        else:
            ids = torch.empty(logits.shape, dtype=torch.int64, device=mask.device)
            tail_logmass = torch.zeros(mask.shape, device=mask.device)
        targets = BatchTargets(
            ids=ids,
            logprobs=logits / temperature - self._logsumexp(logits, temperature)[..., None],
            tail_logmass=tail_logmass,
            mask=mask,
        )
        if "sample_ids" in self:
            targets = replace(
                targets,
                sample_ids=self["sample_ids"].long(),
                sample_weights=self._sample_weights(logits, temperature),
            )
        return targets

    def renormalized_targets(self, temperature: float = 1.0) -> BatchTargets:
        """Return the kept entries as if they were all there is, at any temperature.

        log p_i = z_i / T - logsumexp_K(z / T). That is biased: it is for stores that do not know
        their tail, of which nothing better can be had.

        Raises:
            InputError: the batch is not as it was collated, see `check`, or has no head.
        """
        self.check()
        if "tail_mass" not in self:
            raise InputError(
                "Batch.renormalized_targets",
                expected="targets with a head of exact entries",
                found="a store of samples",
                next_step="Use soft_targets.",
            )
        scaled = self._logits() / temperature
        is_target = self["num_entries"] > 0
        whole = scaled.logsumexp(dim=-1).masked_fill(~is_target, 0)
        return BatchTargets(
            ids=self._ids(),
            logprobs=scaled - whole[..., None],
            tail_logmass=torch.where(is_target, -torch.inf, 0.0),
            mask=self["target_mask"],
        )

    def _ids(self) -> torch.Tensor:
        """Return the head's ids [B, L, K]."""
        planes = [self[name] for name in _plane_names(self)]
        ids = sum(plane.long() << (8 * number) for number, plane in enumerate(planes))
        assert isinstance(ids, torch.Tensor)
        return ids

    def _sample_weights(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return R c / N at the draws' temperature, and that times t^(T) / t at another.

        R is the tail's mass where the draws are from the tail, else 1.
        """
        drawn_at = self["sample_temperature"]
        weights: torch.Tensor = self["sample_counts"] / self["num_draws"]
        if "tail_mass" in self:
            index = temperature_index(self["temperatures"], drawn_at)
            weights = weights * self["tail_mass"][..., index, None]
        if temperature != drawn_at:
            own = self._sample_logits(temperature)
            ratio = own / temperature - self._logsumexp(logits, temperature)[..., None]
            ratio = ratio - (own / drawn_at - self._logsumexp(logits, drawn_at)[..., None])
            # Where nothing was drawn the logits mean nothing.
            weights = torch.where(weights > 0, weights * ratio.exp(), 0)
        return weights

    def _sample_logits(self, temperature: float) -> torch.Tensor:
        if "sample_logits" not in self:
            raise TemperatureError(
                f"temperature {temperature:g}",
                expected="the logits of the drawn ids, to weigh them anew",
                found=f"draws at temperature {self['sample_temperature']:g} without logits",
                next_step="Pass that temperature, or build the store with both in the grid.",
            )
        logits: torch.Tensor = self["sample_logits"]
        return logits

    def _logsumexp(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return log(sum over the vocabulary of exp(z / T)) [B, L]; 0 where there is no target."""
        index = temperature_index(self["temperatures"], temperature)
        if "logsumexp" in self:
            stored: torch.Tensor = self["logsumexp"][..., index]
            return stored
        head = (logits / temperature).logsumexp(dim=-1)
        whole = head - torch.log1p(-self["tail_mass"][..., index])
        return whole.masked_fill(self["num_entries"] == 0, 0)

    def _logits(self) -> torch.Tensor:
        """Return the head's logits [B, L, K], -inf for an entry that is not kept."""
        if "tail_mass" not in self:
            mask = self["target_mask"]
            return torch.empty((*mask.shape, 0), device=mask.device)
        if "logits" in self:
            logits: torch.Tensor = self["logits"]
        else:
            halves = self["steps"]
            steps = torch.cat([halves & 15, halves >> 4], dim=-1).int()
            steps = _fill_escapes(steps[..., : self["id_plane_0"].shape[-1]], self["escapes"])
            distance = steps.cumsum(dim=-1) * self["step"]
            logits = self["top_logit"][..., None] - distance
        ranks = torch.arange(logits.shape[-1], device=logits.device)
        return logits.masked_fill(ranks >= self["num_entries"][..., None], -torch.inf)


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


def _plane_names(batch: Batch) -> list[str]:
    return sorted(name for name in batch if name.startswith(_PLANE))
