"""The tables of students near the teacher: means over seeds, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from softtargets.targets import Float64
from tests.benchmarks.near_methods import FULL

PAIRS = (
    ("systematic 17", "independent 17", "equal draws"),
    ("threshold 17", "independent 17", "equal draws"),
    ("threshold 17", "systematic 17", "equal draws"),
    ("threshold 9", "independent 8", "one draw more"),
    ("threshold 9", "independent 17", "fewer bytes"),
    ("threshold 9", "top 6", "fewer bytes"),
    ("independent 17", "top 6", "equal bytes, about"),
    ("threshold 24", "independent 32", "equal bytes, about"),
    ("threshold 17", "independent 32", "fewer bytes"),
    ("threshold 17", "top 16 + 16", "a third of the bytes"),
    ("threshold 24", "top 16 + 16", "under half of the bytes"),
    ("independent 32", "top 16 + 16", "under half of the bytes"),
)
"""What is compared with what, and why."""


def paired(first_S: Float64, second_S: Float64) -> tuple[float, float]:
    """Return the mean of the differences of S seeds, and its standard error; NaN of one seed."""
    differences_S = first_S - second_S
    if len(differences_S) < 2:
        return float(differences_S.mean()), math.nan
    error = differences_S.std(ddof=1) / math.sqrt(len(differences_S))
    return float(differences_S.mean()), float(error)


def tables(found: dict[str, Any]) -> str:
    """Return what a run found, as Markdown."""
    measured = {
        name: np.array([one[name] for one in found["seeds"].values()], dtype=np.float64)
        for name in found["sizes"]
    }
    parts = [_opening(found), _means(found, measured)]
    pairs = [one for one in PAIRS if one[0] in measured and one[1] in measured]
    return "\n".join([*parts, _pairs(found, measured, pairs)])


def _opening(found: dict[str, Any]) -> str:
    setting = found["setting"]
    num_targets = setting["windows"] * (setting["sequence_length"] - 1)
    layers = ", ".join(map(str, setting["dropped"]))
    return (
        f"# Students near the teacher\n\n"
        f"{setting['teacher']} without layers {layers}, trained from layer "
        f"{setting['first_trained']} on. The text of a seed has {num_targets:,} targets in "
        f"{setting['windows']} windows, {setting['batch_size']} per step, at a learning rate of "
        f"{setting['learning_rate']:g}. Seeds: {len(found['seeds'])}. Before training the held-out "
        f"KL to the teacher is {found['start_kl']:.3f} nats.\n"
    )


def _epochs(found: dict[str, Any]) -> list[str]:
    return [f"{one} epoch{'s' * (one > 1)}" for one in found["setting"]["epochs"]]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _means(found: dict[str, Any], measured: dict[str, Float64]) -> str:
    epochs = _epochs(found)
    text = (
        "## KL after training\n\n"
        "Held-out KL to the teacher in nats, mean over seeds. Behind it stands the paired "
        f"difference to `{FULL}`, with its standard error, in thousandths of a nat. Bytes with ~ "
        "are estimates.\n\n"
    )
    heads = ["method", "entries", "bytes/target"]
    for one in epochs:
        heads += [f"KL, {one}", f"to {FULL}"]
    text += _row(heads) + _row(["---", *["---:"] * (len(heads) - 1)])
    for name, values_SE in measured.items():
        size = found["sizes"][name]
        cells = [name, "-", "-"]
        if size["entries"] is not None:
            mark = "~" * size["is_estimate"]
            cells[1:] = [f"{size['entries']:.1f}", f"{mark}{size['bytes_per_target']:.1f}"]
        for at in range(len(epochs)):
            cells.append(f"{values_SE[:, at].mean():.4f}")
            other_S = measured[FULL][:, at] if FULL in measured else values_SE[:, at]
            cells.append("-" if name == FULL else _difference(values_SE[:, at], other_S))
        text += _row(cells)
    return text


def _pairs(
    found: dict[str, Any], measured: dict[str, Float64], pairs: Sequence[tuple[str, str, str]]
) -> str:
    epochs = _epochs(found)
    text = (
        "## Pairs\n\n"
        "KL of the first less KL of the second, the same seed's, in thousandths of a nat: below 0 "
        "the first is nearer to the teacher.\n\n"
    )
    heads = ["first", "second", "at", *epochs]
    text += _row(heads) + _row([*["---"] * 3, *["---:"] * len(epochs)])
    for first, second, reason in pairs:
        columns = zip(measured[first].T, measured[second].T, strict=True)
        text += _row([first, second, reason, *(_difference(a_S, b_S) for a_S, b_S in columns)])
    return text


def _difference(first_S: Float64, second_S: Float64) -> str:
    mean, error = (1e3 * one for one in paired(first_S, second_S))
    return f"{mean:+.1f} ({error:.1f})"
