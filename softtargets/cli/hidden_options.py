"""The options about layers: of which hidden states are kept, and what students learn of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from softtargets.errors import InputError

Command = TypeVar("Command", bound=Callable[..., Any])

_LAST = "last"
LAYER_OPTIONS = (
    click.option(
        "--hidden-states",
        is_flag=False,
        flag_value=_LAST,
        metavar="[LAYERS]",
        help="Also keep hidden states. Alone or with last, they are the teacher's last ones, with "
        "its output head: they give the full distribution at any temperature. Numbers, as in "
        "0,3,6,last, are the inputs of layers, counted from 0.",
    ),
    click.option(
        "--rerun-layers",
        metavar="LAYERS",
        help="Also keep the weights of these layers, beside their inputs. Whoever trains runs them "
        "again, for their attention and their output.",
    ),
    click.option(
        "--layer-rows",
        type=click.Choice(["tokens", "targets"]),
        default="tokens",
        help="Keep the inputs of layers of all tokens, or of those alone that have a target.",
    ),
    click.option(
        "--layer-values",
        type=click.Choice(["exact", "bfloat16", "float16", "int8", "float8"]),
        default="exact",
        help="Number format of the inputs of layers. exact: the teacher's own. int8 and float8 "
        "have a scale for each token.",
    ),
)


def parse_layers(hidden_states: str | None, rerun_layers: str | None) -> dict[str, Any]:
    """Return the fields of `BuildConfig` that two lists of layers ask for.

    Raises:
        InputError: one is no list of layers.
    """
    names = [] if hidden_states is None else hidden_states.split(",")
    keeps_last = _LAST in names
    if keeps_last:
        names.remove(_LAST)
    return {
        "hidden_states": keeps_last,
        "layers": _numbers("--hidden-states", names, f"and {_LAST}"),
        "rerun_layers": _numbers(
            "--rerun-layers", [] if rerun_layers is None else rerun_layers.split(","), "alone"
        ),
    }


def _numbers(option: str, names: list[str], others: str) -> tuple[int, ...]:
    _check_names(option, names, others)
    return tuple(sorted({int(one) for one in names}))


def _check_names(option: str, names: list[str], others: str) -> None:
    if not all(one.isascii() and one.isdecimal() and len(one) < 6 for one in names):
        raise InputError(
            option,
            expected=f"numbers of layers with commas between them, {others}",
            found=",".join(names),
            next_step="For example --hidden-states 0,3,6,last --rerun-layers 3,6.",
        )


_RECIPE_OPTIONS = (
    click.option(
        "--layer-map",
        metavar="LAYERS",
        help="Layer of the teacher that each layer of the student learns from, as 2,5,8,11. For "
        "minilm, the layer whose relations it learns.  [default: evenly; for minilm the last]",
    ),
    click.option(
        "--attention-weight",
        type=float,
        help="Weight of attention scores in tinybert recipes.  [default: 1]",
    ),
    click.option(
        "--hidden-weight",
        type=float,
        help="Weight of hidden states in tinybert recipes.  [default: 1]",
    ),
    click.option(
        "--embeddings-weight",
        type=float,
        help="Weight of embeddings in tinybert recipes.  [default: 1]",
    ),
    click.option(
        "--logits-share",
        type=float,
        help="Share of the training, at its end, for logits instead of layers.  [default: 0.5 of "
        "tinybert-task, else 0]",
    ),
    click.option(
        "--relation-heads",
        type=int,
        help="Heads that relations of minilm are cut into.  [default: as many as the teacher has]",
    ),
)


def layer_recipe_options(command: Command) -> Command:
    """Give a command the options of recipes of layers."""
    for option in reversed(_RECIPE_OPTIONS):
        command = option(command)
    return command


def parse_layer_map(text: str | None) -> tuple[int, ...] | None:
    """Return the layers that a list names, in its order.

    Raises:
        InputError: it is no list of layers.
    """
    if text is None:
        return None
    names = text.split(",")
    _check_names("--layer-map", names, "alone")
    return tuple(map(int, names))
