"""The report of a store: one self-contained HTML page, the same for the same store.

It asks for nothing from anywhere: styles, script, charts and data are in it. What comes from the
corpus is escaped by the template, or is data that the script writes as text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from softtargets.report.charts import Chart, count_chart, linear_chart, log_chart, rank_chart
from softtargets.report.class_page import class_tables
from softtargets.report.column_sizes import column_sizes
from softtargets.report.distribution import Counts
from softtargets.report.examples import MOST_TOKENS, Examples
from softtargets.report.number_texts import bytes_text, number_text, percent_text
from softtargets.report.shown_windows import find_window, sampled, sound
from softtargets.report.summary import summary
from softtargets.report.target_statistics import Statistics, Sums, measure
from softtargets.report.tokens import TokenNames
from softtargets.store import Store
from softtargets.store.sizes import StoreSizes, store_sizes
from softtargets.targets import TargetSchema
from softtargets.texts import shown

DEFAULT_WINDOWS = 1000
DEFAULT_EXAMPLES = 3
MOST_SOURCES = 50

_ENTROPY = {
    "exact": "Of the teacher's whole distribution.",
    "bound": "A lower bound: everything outside the kept logits counts as one outcome.",
    "estimate": "Estimated from the draws: right in the mean, not at each target.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart for each temperature, or one for all."""

    title: str
    caption: str
    charts: tuple[Chart, ...]
    means: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """A number that stands at the top of the page: one for each temperature, or one for all."""

    name: str
    values: tuple[str, ...]
    hint: str


def report(
    store: Store,
    *,
    most_windows: int = DEFAULT_WINDOWS,
    num_examples: int = DEFAULT_EXAMPLES,
    window_ids: Sequence[str] = (),
) -> str:
    """Return the page of a store.

    Args:
        store: what is shown.
        most_windows: how many windows the statistics are of at most, evenly spread.
        num_examples: how many windows are shown, evenly spread, where none is named.
        window_ids: the windows that are shown, by their ids or how these begin.

    Raises:
        InputError: `most_windows` is not positive, or no single window has such an id.
        CorruptionError, FormatError or IdentityError: a file is not what was committed.
    """
    examples = _examples(store, num_examples, window_ids)
    return _template().render(
        name=shown(str(store.location).rstrip("/").rpartition("/")[2]),
        summary=summary(store),
        columns=column_sizes(store),
        examples=examples.windows,
        data=examples.data(),
        most_tokens=MOST_TOKENS,
        rounding=_rounding(store.targets),
        **_measured(store, measure(store, most_windows)),
    )


def _examples(store: Store, number: int, window_ids: Sequence[str]) -> Examples:
    """Return the windows that are shown: those named, else some evenly spread."""
    examples = Examples(store.targets, TokenNames(store.vocabulary))
    for prefix in window_ids:
        examples.add(find_window(store, prefix))
    if not window_ids and number:
        for window in sampled(store, number):
            examples.add(sound(store, window))
    return examples


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("softtargets.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "sort_keys": True}
    environment.filters |= {"bytes": bytes_text, "percent": percent_text, "shown": shown}
    return environment.get_template("report.html")


def _measured(store: Store, statistics: Statistics) -> dict[str, Any]:
    """Return what the template shows of statistics and sizes."""
    sizes = store_sizes(store)
    return {
        "temperatures": [f"{one:g}" for one in statistics.temperatures],
        "statistics": statistics,
        "headlines": _headlines(store, statistics, sizes),
        "figures": _figures(statistics),
        "notes": _notes(statistics),
        "class_tables": class_tables(statistics.classes, TokenNames(store.vocabulary)),
        "sources": list(statistics.sources.items())[:MOST_SOURCES],
        "source_columns": _source_columns(statistics),
        "source_numbers": partial(_source_numbers, statistics),
        "sizes": sizes,
        "shade": "label" if statistics.surprise else "tail" if statistics.tail_mass else "",
    }


def _rounding(schema: TargetSchema) -> str:
    """Return why a label's probability is not quite its candidate's; empty where it is."""
    if schema.head is None or schema.head.step is None or not schema.label_logits:
        return ""
    return f"Candidates are within {schema.head.step / 2:g} nat; the label's own numbers are exact."


def _headlines(store: Store, statistics: Statistics, sizes: StoreSizes) -> list[Headline]:
    per_target = sizes.shards / store.num_positions
    found = [
        Headline(name="windows", values=(f"{len(store):,}",), hint=""),
        Headline(name="targets", values=(f"{store.num_positions:,}",), hint=""),
        Headline(
            name="bytes a target",
            values=(number_text(per_target),),
            hint=f"{bytes_text(sizes.shards)} of the {bytes_text(sizes.total)} in all",
        ),
    ]
    total = statistics.total
    if statistics.has_top and total.num_labelled:
        share = total.num_top / total.num_labelled
        hint = "label is the teacher's first choice"
        if statistics.schema.problem is not None:
            hint = "all labels are as the teacher says"
        found.append(Headline(name="top-1 agreement", values=(percent_text(share),), hint=hint))
    if statistics.surprise and total.num_labelled:
        values = tuple(_perplexity(total, one) for one in range(len(statistics.temperatures)))
        found.append(
            Headline(name="perplexity", values=values, hint="of the teacher, on the labels")
        )
    if statistics.tail_mass and total.num_trained:
        values = tuple(percent_text(one.mean) for one in statistics.tail_mass)
        found.append(Headline(name="mean tail mass", values=values, hint="outside the kept logits"))
    return found


def _figures(statistics: Statistics) -> list[Figure]:
    """Return the charts of what the store tells; none without a target to train on."""
    if not statistics.total.num_trained:
        return []
    found = []
    if statistics.tail_mass:
        found.append(
            Figure(
                title="Tail mass",
                caption="The teacher's probability outside the kept logits.",
                charts=tuple(
                    log_chart(one, "probability, log scale") for one in statistics.tail_mass
                ),
                means=tuple(percent_text(one.mean) for one in statistics.tail_mass),
            )
        )
    if statistics.entropy_kind is not None:
        found.append(
            Figure(
                title="Entropy",
                caption=_ENTROPY[statistics.entropy_kind],
                charts=tuple(linear_chart(one, "nats") for one in statistics.entropy),
                means=tuple(f"{number_text(one.mean)} nats" for one in statistics.entropy),
            )
        )
    if statistics.surprise and statistics.total.num_labelled:
        found.append(
            Figure(
                title="Surprise",
                caption="-log of the probability that the teacher gave the label.",
                charts=tuple(linear_chart(one, "nats") for one in statistics.surprise),
                means=tuple(f"{number_text(one.mean)} nats" for one in statistics.surprise),
            )
        )
    return found + _counted(statistics)


def _counted(statistics: Statistics) -> list[Figure]:
    found = []
    schema = statistics.schema
    if statistics.label_ranks is not None and statistics.total.num_labelled:
        among = "classes" if schema.num_classes else "tokens"
        within = statistics.label_ranks[:3].sum() / statistics.label_ranks.sum()
        chart = rank_chart(
            statistics.label_ranks, schema.num_labels, f"place of the label among all {among}"
        )
        caption = "Where the label stands among what the teacher expects."
        if schema.num_labels > 5:
            caption += f" Among the first five: {percent_text(float(within))}."
        found.append(Figure(title="Label rank", caption=caption, charts=(chart,)))
    for title, caption, counts in (
        ("Kept logits", "How many are stored at a target.", statistics.num_entries),
        ("Drawn ids", "How many different ones are stored at a target.", statistics.num_drawn),
    ):
        if counts is not None and np.count_nonzero(counts) > 1:
            chart = count_chart(counts, "number at a target")
            found.append(Figure(title=title, caption=caption, charts=(chart,)))
    return found


def _notes(statistics: Statistics) -> list[str]:
    """Return sentences in place of charts with one bar."""
    named: tuple[tuple[str, Counts | None], ...] = (
        ("kept logits", statistics.num_entries),
        ("different drawn ids", statistics.num_drawn),
    )
    return [
        f"Every target has {int(np.flatnonzero(counts)[0]):,} {name}."
        for name, counts in named
        if counts is not None and np.count_nonzero(counts) == 1
    ]


def _source_columns(statistics: Statistics) -> list[str]:
    """Return the names of the cells of `_source_numbers`."""
    columns = ["windows", "targets"]
    columns += ["mean tail mass"] if statistics.tail_mass else []
    columns += ["perplexity"] if statistics.surprise else []
    return columns + (["top-1 agreement"] if statistics.has_top else [])


def _source_numbers(statistics: Statistics, sums: Sums) -> list[tuple[str, ...]]:
    """Return the cells of a source's row, each as texts for one temperature or for all."""
    grid, num = range(len(statistics.temperatures)), sums.num_trained
    cells: list[tuple[str, ...]] = [(f"{sums.num_windows:,}",), (f"{sums.num_targets:,}",)]
    if statistics.tail_mass:
        cells.append(
            tuple(percent_text(sums.tail_mass_G[one] / num if num else None) for one in grid)
        )
    if statistics.surprise:
        cells.append(tuple(_perplexity(sums, one) for one in grid))
    if statistics.has_top:
        labelled = sums.num_labelled
        cells.append((percent_text(sums.num_top / labelled if labelled else None),))
    return cells


def _perplexity(sums: Sums, index: int) -> str:
    if not sums.num_labelled:
        return "-"
    mean = -sums.label_logprob_G[index] / sums.num_labelled
    # Past this exp overflows; no teacher means such a number.
    return number_text(math.exp(mean) if mean < 700 else math.inf)
