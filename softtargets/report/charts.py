"""Bar charts as plain geometry, which the page's template draws as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from softtargets.report.distribution import Counts, Distribution
from softtargets.report.number_texts import number_text, percent_text
from softtargets.report.target_statistics import RANK_EDGES

WIDTH, HEIGHT = 360, 210
"""Of a drawing, in the units of its viewBox."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 8, 42
_MOST_BARS = 40
_FEW_TICKS = 8
_RAISED = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a chart."""

    x: float
    y: float
    width: float
    height: float
    says: str
    """What it stands for, in words."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where it is, and what it says."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """How targets are spread over one number."""

    x_title: str
    """With the unit."""
    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]

    left, right, bottom = _LEFT, WIDTH - _RIGHT, HEIGHT - _BOTTOM
    width, height = WIDTH, HEIGHT


def log_chart(distribution: Distribution, x_title: str) -> Chart:
    """Return a chart of a number between two powers of ten."""
    edges = distribution.edges
    exponents = np.log10(edges)
    ticks = [
        (place, _power(round(one)))
        for place, one in enumerate(exponents.tolist())
        if math.isclose(one, round(one), abs_tol=1e-9) and round(one) % 3 == 0
    ]
    return _distribution_chart(distribution, x_title, ticks)


def linear_chart(distribution: Distribution, x_title: str) -> Chart:
    """Return a chart of a number on an even scale."""
    edges = distribution.edges
    num = len(edges) - 1
    every = next(one for one in (1, 2, 4, 5, 8, 10, 16) if num / one <= _FEW_TICKS)
    ticks = [(place, number_text(edges[place])) for place in range(0, num + 1, every)]
    return _distribution_chart(distribution, x_title, ticks)


def rank_chart(label_ranks: Counts, num_labels: int, x_title: str) -> Chart:
    """Return a chart of the classes of `RANK_EDGES`, counted from 1 as people count places."""
    ends = pairwise(RANK_EDGES)
    names = [*(_class_name(start, stop) for start, stop in ends), f">{_short(RANK_EDGES[-1])}"]
    names = names[: int(np.searchsorted(RANK_EDGES, num_labels))]
    ticks = [(place + 0.5, name) for place, name in enumerate(names)]
    said = [f"place {name}" for name in names]
    return _chart(label_ranks[: len(names)].tolist(), said, ticks, x_title)


def count_chart(counts: Counts, x_title: str) -> Chart:
    """Return a chart of a whole number: how often it is 0, 1, 2, ..."""
    first, last = int(np.flatnonzero(counts)[0]), int(np.flatnonzero(counts)[-1])
    step = max(1, math.ceil((last - first + 1) / _MOST_BARS))
    starts = range(first, last + 1, step)
    own = [int(counts[start : start + step].sum()) for start in starts]
    names = [f"{start}" if step == 1 else f"{start} to {start + step - 1}" for start in starts]
    every = max(1, math.ceil(len(own) / _FEW_TICKS))
    ticks = [(place + 0.5, f"{starts[place]}") for place in range(0, len(own), every)]
    return _chart(own, names, ticks, x_title)


def _distribution_chart(
    distribution: Distribution, x_title: str, ticks: Sequence[tuple[float, str]]
) -> Chart:
    """Return a chart with bars for what is below and above the edges, where anything is."""
    edges, counts = distribution.edges, distribution.counts.tolist()
    said = [f"{number_text(low)} to {number_text(high)}" for low, high in pairwise(edges.tolist())]
    shift = 0
    if distribution.num_below:
        counts.insert(0, distribution.num_below)
        said.insert(0, f"below {number_text(edges[0])}")
        shift = 1
    if distribution.num_above:
        counts.append(distribution.num_above)
        said.append(f"{number_text(edges[-1])} and more")
    return _chart(counts, said, [(place + shift, text) for place, text in ticks], x_title)


def _chart(
    counts: Sequence[int], said: Sequence[str], ticks: Sequence[tuple[float, str]], x_title: str
) -> Chart:
    total = sum(counts)
    top = _round_up(max(counts) / total)
    room, tall = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    each = room / len(counts)
    gap = min(2.0, each / 5)
    bars = []
    for place, (count, text) in enumerate(zip(counts, said, strict=True)):
        share = count / total
        # A bar that is there can be seen, however few they are.
        height = max(share / top * tall, 1.5) if count else 0.0
        bars.append(
            Bar(
                round(_LEFT + place * each + gap / 2, 2),
                round(_TOP + tall - height, 2),
                round(each - gap, 2),
                round(height, 2),
                f"{text}: {percent_text(share)} ({count:,})",
            )
        )
    return Chart(
        x_title=x_title,
        bars=tuple(bar for bar in bars if bar.height),
        x_ticks=tuple(Tick(round(_LEFT + place * each, 2), text) for place, text in ticks),
        y_ticks=tuple(
            Tick(round(_TOP + tall * (1 - part), 2), f"{100 * top * part:g}%")
            for part in (0, 0.5, 1)
        ),
    )


def _round_up(share: float) -> float:
    """Return the next of 1, 1.5, 2, 3, 4, 6, 8, 10 times a power of ten, at most 1."""
    power = 10.0 ** math.floor(math.log10(share))
    times = next(one for one in (1, 1.5, 2, 3, 4, 6, 8, 10) if one * power >= share * (1 - 1e-9))
    return min(times * power, 1.0)


def _class_name(start: int, stop: int) -> str:
    """Return the places of the ranks from `start` to before `stop`."""
    return f"{stop}" if stop == start + 1 else f"\u2264{_short(stop)}"


def _short(number: int) -> str:
    return f"{number // 1000}k" if number % 1000 == 0 else f"{number}"


def _power(exponent: int) -> str:
    return "1" if exponent == 0 else f"10{str(exponent).translate(_RAISED)}"
