"""The options that say of which layers hidden states are kept."""

from __future__ import annotations

from typing import Any

import click

from softtargets.errors import InputError

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
    if not all(one.isascii() and one.isdecimal() and len(one) < 6 for one in names):
        raise InputError(
            option,
            expected=f"numbers of layers with commas between them, {others}",
            found=",".join(names),
            next_step="For example --hidden-states 0,3,6,last --rerun-layers 3,6.",
        )
    return tuple(sorted({int(one) for one in names}))
