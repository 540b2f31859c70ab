"""What goes through a model's layers, recorded while it runs.

Shapes: B sequences, L their tokens, D width of hidden states, A heads, K heads of keys and values,
H width of a head.

Attention is recorded where every architecture of transformers asks for its implementation, so what
is recorded is what the model computes with, rotary positions and all, and no model is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from softtargets.errors import InputError
from softtargets.layers.layer_list import find_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionInputs:
    """What a layer's attention is computed from."""

    query_BALH: torch.Tensor
    key_BKLH: torch.Tensor
    value_BKLH: torch.Tensor
    scaling: float
    """What the products of query and key are multiplied with."""
    softcap: float | None
    """c of c * tanh(scores / c); None for none."""
    mask: torch.Tensor | None
    """[B or 1, 1 or A, L, L], True or 0 where a token sees another; or [B, L]; None for any."""
    is_causal: bool
    """Whether, without such a mask, no token sees what follows it."""

    def scores(self) -> torch.Tensor:
        """Return the attention scores before mask and softmax, [B, A, L, L] in float32."""
        query_BALH, key_BKLH = self.query_BALH.float(), self.key_BKLH.float()
        per_key = query_BALH.shape[1] // key_BKLH.shape[1]
        key_BALH = key_BKLH.repeat_interleave(per_key, dim=1)
        scores = query_BALH @ key_BALH.transpose(2, 3) * self.scaling
        return scores if self.softcap is None else torch.tanh(scores / self.softcap) * self.softcap

    def is_seen(self, is_token_BL: torch.Tensor) -> torch.Tensor:
        """Return which tokens see which, [B, 1, L, L] bool; padding sees none and is seen by none.

        Args:
            is_token_BL: which are no padding.
        """
        seen = (is_token_BL[:, None, :] & is_token_BL[:, :, None])[:, None]
        mask = self.mask
        if mask is not None and mask.ndim == 4:
            # Where a mask differs between heads, it does for other reasons than this.
            mask = mask[:, :1]
            return seen & (mask if mask.dtype == torch.bool else mask > _lowest(mask) / 2)
        if self.is_causal:
            length = seen.shape[-1]
            seen = seen & torch.ones((length, length), dtype=torch.bool, device=seen.device).tril()
        return seen


@dataclass(slots=True)
class LayerRecords:
    """What was recorded of a pass through N layers."""

    inputs: list[torch.Tensor] = field(default_factory=list)
    """[B, L, D] of each layer."""
    outputs: list[torch.Tensor] = field(default_factory=list)
    attention: list[AttentionInputs] = field(default_factory=list)
    """Of each layer, if it was to be recorded."""

    @property
    def states(self) -> tuple[torch.Tensor, ...]:
        """Return the input of each layer, and the output of the last: N + 1 tensors [B, L, D]."""
        return (*self.inputs, self.outputs[-1])

    def check(self, num_layers: int, where: str, *, attention: bool) -> None:
        """Check that each layer was recorded once.

        Args:
            num_layers: how many there are.
            where: what the message names.
            attention: whether theirs was to be recorded.

        Raises:
            InputError: the model does not run its layers one after another, or not with an
                attention that transformers knows.
        """
        found = len(self.inputs), len(self.outputs), len(self.attention)
        if found != (num_layers, num_layers, num_layers if attention else 0):
            raise InputError(
                where,
                expected=f"a model that runs each of its {num_layers} layers once, with one "
                "attention of transformers",
                found=f"{found[0]} inputs, {found[1]} outputs and {found[2]} attentions "
                "that were recorded",
                next_step="Its layers cannot be watched: leave out what is about layers.",
            )


@contextmanager
def recording(model: torch.nn.Module, where: str, *, attention: bool) -> Iterator[LayerRecords]:
    """Record what goes through the layers of a model of transformers within.

    Args:
        model: which runs once.
        where: what messages name.
        attention: whether what attention is computed from is recorded, too.

    Raises:
        InputError: its layers are no list.
    """
    name = find_layers(model, where, "Choose a model whose layers transformers has in one list.")
    layers: Any = model.get_submodule(name)
    records = LayerRecords()
    hooks = [
        hook
        for layer in layers
        for hook in (
            layer.register_forward_pre_hook(partial(_note_input, records), with_kwargs=True),
            layer.register_forward_hook(partial(_note_output, records)),
        )
    ]
    try:
        with _noting_attention(records) if attention else _nothing():
            yield records
    finally:
        for hook in hooks:
            hook.remove()


def hidden_argument(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> torch.Tensor:
    """Return the hidden states among the arguments of a layer."""
    hidden_BLD: torch.Tensor = arguments[0] if arguments else keywords["hidden_states"]
    return hidden_BLD


def _note_input(
    records: LayerRecords, _: torch.nn.Module, arguments: Any, keywords: dict[str, Any]
) -> None:
    records.inputs.append(hidden_argument(arguments, keywords))


def _note_output(records: LayerRecords, _: torch.nn.Module, __: Any, output: Any) -> None:
    records.outputs.append(output if isinstance(output, torch.Tensor) else output[0])


@contextmanager
def _noting_attention(records: LayerRecords) -> Iterator[None]:
    """Note what every attention within is called with."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    find = ALL_ATTENTION_FUNCTIONS.get_interface

    def get_interface(name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        return partial(_attend, records, find(name, default))

    vars(ALL_ATTENTION_FUNCTIONS)["get_interface"] = get_interface
    try:
        yield
    finally:
        del vars(ALL_ATTENTION_FUNCTIONS)["get_interface"]


def _attend(
    records: LayerRecords,
    own: Callable[..., Any],
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> Any:
    is_causal, scaling = options.get("is_causal"), options.get("scaling")
    records.attention.append(
        AttentionInputs(
            query_BALH=query,
            key_BKLH=key,
            value_BKLH=value,
            scaling=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
            softcap=options.get("softcap"),
            mask=attention_mask,
            is_causal=bool(getattr(module, "is_causal", True) if is_causal is None else is_causal),
        )
    )
    return own(module, query, key, value, attention_mask, **options)


def _lowest(mask: torch.Tensor) -> float:
    return torch.finfo(mask.dtype).min


@contextmanager
def _nothing() -> Iterator[None]:
    yield
