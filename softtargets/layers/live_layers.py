"""Layers of a live model, taken to be stored, and checked to do the same by themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from softtargets.errors import InputError
from softtargets.layers.layer_body import NOT_STORED, LayerBody
from softtargets.layers.layer_list import find_layers
from softtargets.layers.recorder import recording
from softtargets.targets import Array, DType, LayerWeights
from softtargets.targets.number_formats import STORED_AS

_CHECKED_TOKENS = 16
_ROUNDINGS = 64
"""How many units in the last place of the largest number the layer by itself may be off."""
_NEXT_STEP = "Omit --rerun-layers, or keep the outputs of layers with --hidden-states."


def take_layers(
    model: torch.nn.Module, numbers: Sequence[int], dtype: DType, where: str
) -> LayerWeights:
    """Return some layers of a model, in the form they are stored in.

    Raises:
        InputError: a layer cannot be run by itself, for what it computes depends on more than its
            input, its weights and the configuration.
    """
    config: Any = model.config
    config = config.get_text_config()
    layers: Any = model.get_submodule(find_layers(model, where, _NEXT_STEP))
    tensors = {}
    for number in numbers:
        for name, own in layers[number].state_dict().items():
            if own.dtype != getattr(torch, dtype):
                raise _alone(model, where, number, f"weights {name} in {own.dtype}")
            tensors[f"{number}.{name}"] = _stored(own.detach().cpu().contiguous(), dtype)
    stated = {name: one for name, one in config.to_dict().items() if name not in NOT_STORED}
    attention = getattr(config, "_attn_implementation", None)
    weights = LayerWeights(
        numbers=tuple(numbers),
        num_layers=config.num_hidden_layers,
        model_type=config.model_type,
        # As JSON has it: tuples are lists there, and keys texts.
        config=json.loads(json.dumps(stated | {"attn_implementation": attention})),
        dtype=dtype,
        tensors=tensors,
    )
    _check(model, weights, where)
    return weights


def _stored(own: torch.Tensor, dtype: DType) -> Array:
    """Return the numbers of a tensor in stored form; numpy has no bfloat16."""
    as_integers = own.view(torch.int16) if dtype == "bfloat16" else own
    return as_integers.numpy().view(STORED_AS[dtype])


@torch.inference_mode()
def _check(model: Any, weights: LayerWeights, where: str) -> None:
    """Check that each layer does by itself what it does in the model.

    Raises:
        InputError: one does not.
    """
    embeddings = model.get_input_embeddings()
    device = next(model.parameters()).device
    num_ids = min(_CHECKED_TOKENS, embeddings.num_embeddings)
    ids_1L = torch.arange(num_ids, device=device)[None]
    mask_1L = torch.ones_like(ids_1L)
    with recording(model, where, attention=True) as live:
        model(input_ids=ids_1L, attention_mask=mask_1L)
    live.check(weights.num_layers, where, attention=True)
    for number in weights.numbers:
        body = LayerBody(weights, number, where)
        run = body.run(live.inputs[number], {"attention_mask": mask_1L})
        own = live.attention[number]
        pairs = {
            "queries": (own.query_BALH, run.attention.query_BALH),
            "keys": (own.key_BKLH, run.attention.key_BKLH),
            "values": (own.value_BKLH, run.attention.value_BKLH),
            "output": (live.outputs[number], run.output_BLD),
        }
        for name, (expected, found) in pairs.items():
            most = _ROUNDINGS * torch.finfo(expected.dtype).eps * expected.abs().max()
            if expected.shape != found.shape or not (found - expected).abs().max() <= most:
                raise _alone(model, where, number, f"other {name} by itself")
        if (own.scaling, own.softcap) != (run.attention.scaling, run.attention.softcap):
            raise _alone(model, where, number, "another scale of its attention by itself")


def _alone(model: torch.nn.Module, where: str, number: int, found: str) -> InputError:
    return InputError(
        f"{where}, layer {number}",
        expected="a layer that can be run by itself on its input",
        found=f"{found} ({type(model).__name__})",
        next_step=_NEXT_STEP,
    )
