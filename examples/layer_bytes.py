"""What stores of layers keep per token, beside what stored attention would take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from examples.comparison import markdown
from softtargets.report.column_sizes import column_sizes
from softtargets.store import Store
from softtargets.store.stored_layers import read_layers

_SCORE_BYTES = 2
_LONG = 512
"""Tokens of a window, to compare."""
_RELATIONS = 3
"""Among queries, among keys and among values."""


def stored_bytes(general: Store, task: Store) -> dict[str, dict[str, float]]:
    """Return what the recipes need of two stores of the same layers, by recipe.

    "states" are bytes per token as they lie on disk, and "attention" what the scores or relations
    would take in two bytes each, if they were stored. "long" is that in windows of 512 tokens.
    "weights" are bytes once.
    """
    last = general.targets.layers
    assert last is not None
    needs: dict[str, tuple[Store, Sequence[int], str, int]] = {
        "tinybert-general": (general, last.numbers, "", 1),
        "tinybert-task": (task, last.numbers, "class_logits", 1),
        "minilm": (general, last.numbers[-1:], "", _RELATIONS),
    }
    found = {}
    for recipe, (store, numbers, more, matrices) in needs.items():
        lengths = [len(window.input_ids_L) for window in store]
        columns = column_sizes(store, len(store.manifest.shards)).columns
        read = {f"feature_layer_{one}" for one in numbers} | {more}
        if matrices == 1:
            read.add("feature_layer_0")
        heads = read_layers(store).config["num_attention_heads"]
        per_key = _SCORE_BYTES * matrices * heads * len(numbers)
        found[recipe] = {
            "states": sum(columns.get(name, 0) for name in read) / sum(lengths),
            "attention": per_key * sum(one**2 for one in lengths) / sum(lengths),
            "long": float(per_key * _LONG),
            "weights": _weight_bytes(store, numbers),
        }
    return found


def _weight_bytes(store: Store, numbers: Sequence[int]) -> float:
    tensors = read_layers(store).tensors
    names = tuple(f"{one}." for one in numbers)
    return float(sum(own.nbytes for name, own in tensors.items() if name.startswith(names)))


def byte_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of what `stored_bytes` found."""
    return markdown(
        (
            "bytes per token",
            "in the store",
            "attention, if it was stored",
            f"the same in windows of {_LONG}",
            "weights, once",
        ),
        (
            (f"`{recipe}`", *(f"{own[name]:,.0f}" for name in ("states", "attention", "long")),
             f"{own['weights']:,.0f}")
            for recipe, own in found.items()
        ),
    )  # fmt: skip
