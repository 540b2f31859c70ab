"""A model's output head: found, so that it can be stored beside the hidden states.

The families of transformers agree on a linear layer, and differ in what follows it. What is known
to follow is read from the configuration; whether it is all, the teacher checks bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from softtargets.targets import DType, HeadWeights
from softtargets.targets.head_weights import Activation, HeadTransform, TransformSchema

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SCALES = ("logit_scale", "lm_head_multiplier")
_DIVISORS = ("logits_scaling",)
_SOFTCAPS = ("final_logit_softcapping",)
_MAGNITUDES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Of the random hidden states that are checked: some reach a soft cap and some do not."""


ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}
_TRANSFORMS = (
    ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"),
    ("vocab_transform", "vocab_layer_norm"),
    ("lm_head.dense", "lm_head.layer_norm"),
)
"""Where families have the layers before their product with the vocabulary."""


@dataclass(frozen=True, slots=True)
class LiveTransform:
    """The layers before a head's product with the vocabulary."""

    dense: torch.nn.Linear
    activation: Activation
    norm: torch.nn.LayerNorm

    def __call__(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return what the product is with."""
        transformed_ND: torch.Tensor = self.norm(
            ACTIVATIONS[self.activation](self.dense(hidden_ND))
        )
        return transformed_ND

    def numpy(self) -> HeadTransform:
        """Return the layers on the host."""
        dense_DD, dense_bias_D, norm_scale_D, norm_shift_D = (
            one.detach().cpu().float().numpy()
            for one in (self.dense.weight, self.dense.bias, self.norm.weight, self.norm.bias)
        )
        return HeadTransform(
            dense_DD=dense_DD,
            dense_bias_D=dense_bias_D,
            norm_scale_D=norm_scale_D,
            norm_shift_D=norm_shift_D,
            schema=TransformSchema(activation=self.activation, epsilon=self.norm.eps),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveHead:
    """An output head as the model has it."""

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None
    scale: float
    divisor: float
    softcap: float | None
    transform: LiveTransform | None = None

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return logits [N, V] in the format of the weights, each step rounded to it."""
        if self.transform is not None:
            hidden_ND = self.transform(hidden_ND)
        logits_NV = functional.linear(hidden_ND, self.weight_VD, self.bias_V)
        logits_NV = logits_NV * self.scale / self.divisor
        if self.softcap is not None:
            logits_NV = torch.tanh(logits_NV / self.softcap) * self.softcap
        return logits_NV

    def numpy(self, dtype: DType) -> HeadWeights:
        """Return the head on the host."""
        return HeadWeights(
            weight_VD=self.weight_VD.cpu().float().numpy(),
            bias_V=None if self.bias_V is None else self.bias_V.cpu().float().numpy(),
            dtype=dtype,
            scale=self.scale,
            divisor=self.divisor,
            softcap=self.softcap,
            transform=None if self.transform is None else self.transform.numpy(),
        )


def candidate_heads(model: PreTrainedModel) -> Iterator[LiveHead]:
    """Yield what may be the head of a model; nothing when it is no linear layer."""
    layer = model.get_output_embeddings()
    if type(layer) is not torch.nn.Linear:
        return
    scale, divisor = _number(model, _SCALES), _number(model, _DIVISORS)
    head = LiveHead(
        weight_VD=layer.weight,
        bias_V=layer.bias,
        scale=1.0 if scale is None else scale,
        divisor=1.0 if divisor is None else divisor,
        softcap=_number(model, _SOFTCAPS),
    )
    yield head
    for dense_name, norm_name in _TRANSFORMS:
        dense, norm = _part(model, dense_name), _part(model, norm_name)
        if type(dense) is torch.nn.Linear and type(norm) is torch.nn.LayerNorm:
            for activation in ACTIVATIONS:
                yield replace(head, transform=LiveTransform(dense, activation, norm))


def random_hidden_states(head: LiveHead) -> torch.Tensor:
    """Return hidden states [N, D] of several magnitudes, always the same."""
    generator = torch.Generator().manual_seed(0)
    shape = (len(_MAGNITUDES), 4, head.weight_VD.shape[1])
    hidden = torch.randn(shape, generator=generator) * torch.tensor(_MAGNITUDES)[:, None, None]
    return hidden.flatten(0, 1).to(head.weight_VD.dtype)


def _part(model: PreTrainedModel, name: str) -> torch.nn.Module | None:
    """Return the module of this name, if a model has one with all of its weights."""
    found = dict(model.named_modules()).get(name)
    named = ("weight", "bias")
    return found if all(getattr(found, one, None) is not None for one in named) else None


def _number(model: PreTrainedModel, names: tuple[str, ...]) -> float | None:
    """Return the first of some fields of the configuration that is a positive number."""
    config = model.config.get_text_config()
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
    return None
