"""A student of some of a teacher's layers, with all else that the teacher has.

It is made from its own configuration, as it will be loaded later, and then given the weights. That
it computes what the teacher does without the other layers is checked, for a configuration may say
something of each layer that is not known here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from softtargets.errors import InputError
from softtargets.layers.layer_list import find_layers, reduce_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CHECKED_TOKENS = 8
_ROUNDING = 1e-5
"""Most that a student's logits may be off, as a share of the teacher's largest. Products with the
same float32 weights at other places in memory are added up in another order."""


def student_layers(teacher: torch.nn.Module) -> str:
    """Return the name of a teacher's list of layers, of which a student is made.

    Raises:
        InputError: it has none, or several.
    """
    return find_layers(
        teacher, "--student", "Pass a directory, an id or a config.json as the student."
    )


def copy_layers(teacher: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Return a student of some layers, which the teacher is reduced to as well.

    Raises:
        InputError: the architecture is of a kind of which this does not make the same model.
    """
    name = student_layers(teacher)
    config = copy.deepcopy(teacher.config)
    reduce_config(config, layers)
    student: PreTrainedModel = type(teacher)(config)
    weights = dict(_renamed(teacher.state_dict(), name, layers))
    wrong = student.load_state_dict(weights, strict=False)
    if wrong.missing_keys or wrong.unexpected_keys:
        raise _unlike(teacher, f"no weights for {', '.join(sorted(wrong.missing_keys)[:3])}")
    student.tie_weights()
    if hasattr(teacher, "generation_config"):
        student.generation_config = teacher.generation_config
    # From here on the teacher has these layers alone.
    parent, _, own = name.rpartition(".")
    whole = getattr(teacher.get_submodule(parent), own)
    setattr(teacher.get_submodule(parent), own, torch.nn.ModuleList([whole[one] for one in layers]))
    reduce_config(teacher.config, layers)
    expected, found = _answer(teacher), _answer(student)
    if not (found - expected).abs().max() <= _ROUNDING * expected.abs().max():
        raise _unlike(teacher, "one that answers otherwise")
    return student


def _renamed(weights: dict[str, Any], name: str, layers: Sequence[int]) -> Any:
    """Yield the weights of a student: layers under their new numbers, all others as they are."""
    places = {str(layer): place for place, layer in enumerate(layers)}
    for key, value in weights.items():
        if not key.startswith(f"{name}."):
            yield key, value
            continue
        number, _, rest = key.removeprefix(f"{name}.").partition(".")
        if number in places:
            yield f"{name}.{places[number]}.{rest}", value


@torch.no_grad()
def _answer(model: PreTrainedModel) -> torch.Tensor:
    """Return what a model answers to some tokens, of whatever family it is."""
    embeddings: Any = model.get_input_embeddings()
    ids_1L = torch.arange(min(_CHECKED_TOKENS, embeddings.num_embeddings))[None]
    model.eval()
    # A cache is filled by the numbers that layers had.
    has_cache = getattr(model.config, "use_cache", None)
    if has_cache is not None:
        model.config.use_cache = False
    output: torch.Tensor = model(input_ids=ids_1L)[0]
    if has_cache is not None:
        model.config.use_cache = has_cache
    return output


def _unlike(teacher: PreTrainedModel, found: str) -> InputError:
    return InputError(
        "--student",
        expected="a student that is the teacher without some layers",
        found=f"{found} ({type(teacher).__name__})",
        next_step="This architecture's layers cannot be copied: pass a directory, an id or a "
        "config.json as the student.",
    )
