"""Batches: compact tensors, and soft targets made from them on any device."""

from __future__ import annotations

import json
from collections import UserDict
from functools import cache
from typing import Any

import torch

from softtargets.errors import InputError
from softtargets.stream.attention import token_mask
from softtargets.stream.batch_targets import BatchDecoder, BatchTargets
from softtargets.stream.target_tensors import feature_scales, feature_tensor, target_tensors
from softtargets.targets import LAST_HIDDEN, TargetSchema

__all__ = ["IGNORE_INDEX", "Batch", "BatchTargets", "schema_text"]

IGNORE_INDEX = -100
"""The label of a token that no loss counts, as in torch and transformers."""


_INPUTS = {"attention_mask", "input_ids", "position_ids", "segment_ids", "token_type_ids"}
"""Tensors [B, L] of what the student reads."""
_OF_TARGETS = {"labels", "target_mask"}
"""Tensors [B, L] beside those of the parts of targets; [B] if targets are about windows."""


@cache
def schema_text(schema: TargetSchema) -> str:
    """Return a schema as batches hold it: texts pass through whatever wraps a loader."""
    return json.dumps(schema.to_dict())


@cache
def _parsed(text: str) -> TargetSchema:
    return TargetSchema.from_dict(json.loads(text))


@cache
def _at_tokens(schema: TargetSchema) -> frozenset[str]:
    """Return which tensors have an element for each token."""
    if schema.convention.is_of_windows:
        return frozenset(
            _INPUTS | {one.name for one in target_tensors(schema) if one.place == "tokens"}
        )
    own = {one.name for one in target_tensors(schema) if one.place != "row"}
    return frozenset(_INPUTS | _OF_TARGETS | own)


class Batch(UserDict[str, Any]):
    """A mapping of tensors, padded on the right to the longest window.

    A student reads `student_inputs(batch)`, and of this mapping `input_ids`, `attention_mask` and
    `labels` [B, L] int64. `labels` are the input ids where a target is trained on and -100
    elsewhere, not shifted, as transformers wants them. `num_tokens` [B] are the tokens of each row.
    Where targets are about whole windows, `labels` and `target_mask` are [B]. Labels that are
    numbers, one for each class, are float32 [B, ..., C], with NaN where -100 would stand.
    `token_type_ids` [B, L] are there if the store has them. Where the tokens are a decoder's,
    `encoder_input_ids` [B, M] are what its encoder reads, and `encoder_attention_mask` [B, M] int64
    is 1 where there is a token.

    Where documents share a row the teacher read each by itself, from position 0. `segment_ids`
    [B, L] tells which tokens are of one document, `position_ids` where they stand in it.
    `attention_mask` is then an object that refuses every use: a mask of padding would let the
    documents see each other.

    `window_id` is a list of B strings, `num_targets` the number of targets to train on,
    `num_segments` the most documents of a row.
    `hidden_states` [B, L, D], if the store has them, are the teacher's last ones in its number
    format, zeros where there is none; or int8, to be multiplied with `hidden_scales` [B, L]. The
    store has them of the targets, or of all tokens. `layer_3` is the input of layer 3 and has
    `layer_3_scales`; float8 are bytes. `states` returns any of them in plain numbers. The rest are
    the packed targets: read them with `soft_targets`.

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
        targets = {one.name: one for one in target_tensors(self.schema)}
        at_tokens = _at_tokens(self.schema)
        for name, value in tensors.items():
            if value.ndim and len(value) != num_windows:
                raise InputError(
                    f"Batch, {name}",
                    expected=f"{num_windows} rows, one for each window_id",
                    found=f"{len(value)}",
                    next_step="Something has sliced or joined batches: let the dataset alone share "
                    "windows among ranks, see docs/trainers.md.",
                )
            own = targets.get(name)
            if name in at_tokens and value.shape[1] != num_tokens:
                raise InputError(
                    f"Batch, {name}",
                    expected=f"{num_tokens} positions, as many as input_ids has",
                    found=f"{value.shape[1]}",
                    next_step="Cut or pad all tensors of a batch alike, or none.",
                )
            if own is not None and own.is_float32 and value.dtype != torch.float32:
                raise InputError(
                    f"Batch, {name}",
                    expected="float32, as stored",
                    found=f"{value.dtype}",
                    next_step="Let the trainer convert the student only, not batches: with "
                    "Lightning, precision 'bf16-mixed' instead of 'bf16-true'.",
                )

    @property
    def schema(self) -> TargetSchema:
        """Return what the targets are."""
        return _parsed(self["schema"])

    def target_labels(self) -> torch.Tensor:
        """Return the label of each target, in the shape of `target_mask`.

        In `labels` it stands at the token that the target is about. What stands here where no
        target is trained on means nothing.
        """
        labels: torch.Tensor = self["labels"]
        shift = self.schema.convention.shift
        return labels.roll(-shift, dims=-1) if shift else labels

    def states(self, name: str = LAST_HIDDEN) -> torch.Tensor:
        """Return the teacher's hidden states of a feature, [B, L, D]; zeros where there is none.

        They are in the teacher's number format, or in float32 if the store has them with scales.

        Args:
            name: last_hidden, or layer_3 for the input of layer 3.

        Raises:
            InputError: the store does not have them.
        """
        own = feature_tensor(name)
        if own not in self:
            raise InputError(
                "Batch.states",
                expected=f"one of the store's features: {self.schema.describe()}",
                found=name,
                next_step="Build the store with --hidden-states and the layer's number, or last.",
            )
        values: torch.Tensor = self[own]
        if values.dtype == torch.uint8:
            values = values.view(torch.float8_e4m3fn)
        scales = self.get(feature_scales(name))
        return values if scales is None else values.float() * scales[..., None]

    def has_states(self, name: str = LAST_HIDDEN) -> torch.Tensor:
        """Return at which tokens `states` has some: those of all, or of targets, [B, L] bool."""
        rows = {one.name: one.rows for one in self.schema.features}[name]
        mask: torch.Tensor = self.token_mask() if rows == "tokens" else self["target_mask"]
        return mask

    def soft_targets(self, temperature: float = 1.0) -> BatchTargets:
        """Return the targets at one of the stored temperatures, on the batch's device.

        log p_i = z_i / T - logsumexp_K(z / T) + log(1 - tail), see `SoftTargets.logprobs_TK`.

        Raises:
            TemperatureError: the temperature is not in the store's grid.
            InputError: the batch is not as it was collated, see `check`.
        """
        self.check()
        return BatchDecoder(self, self.schema).soft_targets(temperature)

    def renormalized_targets(self, temperature: float = 1.0) -> BatchTargets:
        """Return the kept entries as if they were all there is, at any temperature.

        log p_i = z_i / T - logsumexp_K(z / T). That is biased: it is for stores that do not know
        their tail, of which nothing better can be had.

        Raises:
            InputError: the batch is not as it was collated, see `check`, or has no entries.
        """
        self.check()
        if self.schema.entries is None:
            raise InputError(
                "Batch.renormalized_targets",
                expected="targets with a head of exact entries",
                found="a store of samples",
                next_step="Use soft_targets.",
            )
        return BatchDecoder(self, self.schema).renormalized_targets(temperature)
