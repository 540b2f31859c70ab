"""A model's body with one layer, which runs by itself on hidden states that are given to it.

The body makes what a layer is called with beside its input: masks, rotary positions and so on. What
its embeddings make is thrown away, so they have two ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from softtargets.errors import InputError
from softtargets.layers.layer_list import find_layers, reduce_config
from softtargets.layers.recorder import AttentionInputs, hidden_argument, recording
from softtargets.limits import Limit
from softtargets.targets import LayerWeights

LAYER_LIMIT = Limit(
    variable="SOFTTARGETS_MAX_LAYER_PARAMETERS",
    default=1 << 26,
    unit="parameters beside a layer that is run again",
)
DEPTH_LIMIT = Limit(
    variable="SOFTTARGETS_MAX_TEACHER_LAYERS",
    default=10_000,
    unit="layers of a teacher",
)
NOT_STORED = frozenset(
    {
        "_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id",
        "model_type", "quantization_config", "torch_dtype", "transformers_version",
    }
)  # fmt: skip
"""Fields of a configuration that are paths or names, or that the store has elsewhere. In the file
of another they mean nothing either."""
_NOT_OF_LAYERS = NOT_STORED | {"attn_implementation", "num_labels"}
_ATTENTIONS = ("sdpa", "eager")
_NEXT_STEP = "Omit --rerun-layers, or keep the outputs of layers with --hidden-states."
_MODEL_ERRORS = (
    *(ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError),
    *(StrictDataclassError, ValueError),
)
_ANY_ID = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRun:
    """What a layer did with its input."""

    attention: AttentionInputs
    output_BLD: torch.Tensor


class LayerBody:
    """One layer of a teacher, in its number format.

    Args:
        weights: of the layers of a store, or of a model.
        number: which of them.
        where: what messages name.

    Raises:
        InputError: the installed transformers does not know the architecture, or makes other
            layers of the configuration than were stored.
        LimitError: the configuration asks for too much memory.
    """

    def __init__(self, weights: LayerWeights, number: int, where: str) -> None:
        self.number, self._where = number, f"{where}, layer {number}"
        config = _config_of(weights, number, self._where)
        self.width = int(config.hidden_size)
        """Of the hidden states."""
        stored = _tensors_of(weights, number)
        attention = weights.config.get("attn_implementation")
        options = {"attn_implementation": attention if attention in _ATTENTIONS else "sdpa"}
        with _made_of(weights, self._where), torch.device("meta"):
            self._check(_body(config, options), stored)
        devices = [torch.device("cuda")] if torch.cuda.is_available() else []
        with _made_of(weights, self._where), torch.random.fork_rng(devices=devices):
            self._body = _body(config, options | {"dtype": getattr(torch, weights.dtype)})
        self._body.eval().requires_grad_(False)
        self._layer: Any = self._body.get_submodule(find_layers(self._body, where, _NEXT_STEP))[0]
        self._layer.load_state_dict(stored)

    @torch.no_grad()
    def run(self, hidden_BLD: torch.Tensor, inputs: Mapping[str, Any]) -> LayerRun:
        """Return what the layer does with its input.

        Args:
            hidden_BLD: its input [B, L, D], of any number format.
            inputs: what a model of this architecture reads: input_ids, and its attention_mask or
                position_ids. Which ids they are does not matter.
        """
        device = hidden_BLD.device
        self._body.to(device)
        hidden_BLD = hidden_BLD.to(next(self._layer.parameters()).dtype)
        ids_BL = torch.full(hidden_BLD.shape[:2], _ANY_ID, device=device)
        named = {name: one for name, one in inputs.items() if name != "token_type_ids"}
        with (
            torch.autocast(device.type, enabled=False),
            self._given(hidden_BLD),
            recording(self._body, self._where, attention=True) as records,
        ):
            self._body(**named | {"input_ids": ids_BL})
        records.check(1, self._where, attention=True)
        return LayerRun(attention=records.attention[0], output_BLD=records.outputs[0])

    @contextmanager
    def _given(self, hidden_BLD: torch.Tensor) -> Iterator[None]:
        """Let the layer be called with these hidden states instead of what the embeddings make."""

        def give(_: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            hidden_argument(arguments, keywords)
            if arguments:
                return (hidden_BLD, *arguments[1:]), keywords
            return arguments, keywords | {"hidden_states": hidden_BLD}

        hook = self._layer.register_forward_pre_hook(give, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def _check(self, body: Any, stored: Mapping[str, torch.Tensor]) -> None:
        """Check that the layer of a body has the weights that are stored, and no other memory."""
        layer = body.get_submodule(find_layers(body, self._where, _NEXT_STEP))[0]
        expected = {name: tuple(one.shape) for name, one in layer.state_dict().items()}
        found = {name: tuple(one.shape) for name, one in stored.items()}
        wrong = sorted(set(expected.items()) ^ set(found.items()))
        if wrong:
            raise InputError(
                f"{self._where}, {wrong[0][0]}",
                expected=f"{expected.get(wrong[0][0], 'no such weight')}, as {type(layer).__name__}"
                " of the installed transformers has",
                found=f"{found.get(wrong[0][0], 'none')}",
                next_step="Install the transformers that the store was built with.",
            )
        beside = sum(one.numel() for one in body.parameters())
        beside -= sum(one.numel() for one in layer.parameters())
        LAYER_LIMIT.check(self._where, beside)


def _config_of(weights: LayerWeights, number: int, where: str) -> Any:
    """Return the configuration of a body with one layer and two ids."""
    from transformers import AutoConfig

    own = {name: one for name, one in weights.config.items() if name not in _NOT_OF_LAYERS}
    for depth in (weights.num_layers, *_depths(own)):
        DEPTH_LIMIT.check(where, depth)
    with _made_of(weights, where):
        config = AutoConfig.for_model(weights.model_type, **{**own, "use_cache": False})
    if config.num_hidden_layers != weights.num_layers:
        raise InputError(
            where,
            expected=f"a configuration of {weights.num_layers} layers",
            found=f"one of {config.num_hidden_layers}",
            next_step="The store is damaged: restore it from a copy.",
        )
    reduce_config(config, [number])
    config.vocab_size, config.pad_token_id = _ANY_ID + 1, 0
    return config


def _depths(config: Mapping[str, Any]) -> Iterator[int]:
    """Yield numbers of layers in a configuration: transformers makes lists as long as these."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _depths(value)
        elif isinstance(value, int) and "layer" in name:
            yield value


def _body(config: Any, options: Mapping[str, Any]) -> Any:
    from transformers import AutoModel

    return AutoModel.from_config(config, **options)


def _tensors_of(weights: LayerWeights, number: int) -> dict[str, torch.Tensor]:
    """Return the weights of a layer by their names in it."""
    dtype = getattr(torch, weights.dtype)
    found = {}
    for name, one in weights.tensors.items():
        layer, _, own = name.partition(".")
        if layer == str(number):
            # Bytes of the file, which torch may not write to.
            found[own] = torch.frombuffer(bytearray(one.tobytes()), dtype=dtype).view(one.shape)
    return found


@contextmanager
def _made_of(weights: LayerWeights, where: str) -> Iterator[None]:
    """Report what transformers cannot make of a configuration.

    Raises:
        InputError: it raised an error.
    """
    try:
        yield
    except InputError:
        raise
    except _MODEL_ERRORS as error:
        raise InputError(
            where,
            expected=f"a layer of {weights.model_type} that transformers makes by itself",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            next_step=_NEXT_STEP,
        ) from error
