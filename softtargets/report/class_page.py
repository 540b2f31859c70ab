"""What the page shows of classes: confusions, and what the teacher is least sure of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from softtargets.report.class_statistics import ClassStatistics
from softtargets.report.number_texts import number_text, percent_text
from softtargets.report.tokens import TokenNames, visible
from softtargets.window import Window

MOST_CLASSES = 30
"""So many classes and confusions are shown."""
_MOST_TOKENS = 60
_AROUND = 12
"""Tokens on either side of one that is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTable:
    """A table with a heading for each cell."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def class_tables(found: ClassStatistics | None, names: TokenNames) -> list[ClassTable]:
    """Return the tables of a store's classes; none of a store without."""
    if found is None:
        return []
    makers = (_classes, _labels, _confusions, _scores, _unsure)
    return [table for make in makers for table in make(found, names) if table.rows]


def _classes(found: ClassStatistics, names: TokenNames) -> Iterator[ClassTable]:
    """Yield how many of each class's labels the teacher finds, and how often it is right."""
    labels = sorted({one for pair in found.confusions for one in pair})
    rows = []
    for number in labels[:MOST_CLASSES]:
        of_label = sum(count for (label, _), count in found.confusions.items() if label == number)
        of_answer = sum(count for (_, one), count in found.confusions.items() if one == number)
        right = found.confusions[number, number]
        rows.append(
            (
                names.label(number, found.schema),
                f"{of_label:,}",
                f"{of_answer:,}",
                percent_text(right / of_label if of_label else None),
                percent_text(right / of_answer if of_answer else None),
            )
        )
    yield ClassTable(
        caption="Classes, on the targets that have a label",
        headings=("class", "labels", "answers of the teacher", "labels found", "answers right"),
        rows=tuple(rows),
    )


def _labels(found: ClassStatistics, names: TokenNames) -> Iterator[ClassTable]:
    """Yield the same of labels that do not exclude each other."""
    rows = []
    for number in sorted({label for label, _, _ in found.answers})[:MOST_CLASSES]:
        both = found.answers[number, True, True]
        missed = found.answers[number, True, False]
        wrong = found.answers[number, False, True]
        rows.append(
            (
                names.label(number, found.schema),
                f"{both + missed:,}",
                f"{both + wrong:,}",
                percent_text(both / (both + missed) if both + missed else None),
                percent_text(both / (both + wrong) if both + wrong else None),
            )
        )
    yield ClassTable(
        caption="Labels that do not exclude each other, each by itself",
        headings=("label", "labels", "answers of the teacher", "labels found", "answers right"),
        rows=tuple(rows),
    )


def _confusions(found: ClassStatistics, names: TokenNames) -> Iterator[ClassTable]:
    """Yield what the teacher takes for what, the most frequent first."""
    total = sum(found.confusions.values())
    wrong = [(pair, count) for pair, count in found.confusions.items() if pair[0] != pair[1]]
    wrong.sort(key=lambda one: (-one[1], one[0]))
    yield ClassTable(
        caption="Confusions, the most frequent first",
        headings=("label", "answer of the teacher", "targets", "share"),
        rows=tuple(
            (
                names.label(label, found.schema),
                names.label(answer, found.schema),
                f"{count:,}",
                percent_text(count / total),
            )
            for (label, answer), count in wrong[:MOST_CLASSES]
        ),
    )


def _scores(found: ClassStatistics, names: TokenNames) -> Iterator[ClassTable]:
    """Yield how far scores are from their labels."""
    del names
    if found.num_scored:
        mean = found.squared_error / found.num_scored
        row = (f"{found.num_scored:,}", number_text(mean), number_text(mean**0.5))
        headings = ("labels", "mean squared error", "root of it")
        yield ClassTable(
            caption="Scores of the teacher, on the labels", headings=headings, rows=(row,)
        )


def _unsure(found: ClassStatistics, names: TokenNames) -> Iterator[ClassTable]:
    """Yield the targets with the highest entropy, or the scores farthest from their labels."""
    is_score = found.schema.problem == "regression"
    rows = []
    for one in sorted(
        found.unsure, key=lambda one: (-one.entropy, one.window.window_id, one.target)
    ):
        label = "-" if one.label is None else names.label(one.label, found.schema)
        answer = names.label(one.answer, found.schema)
        told = (answer,) if is_score else (answer, percent_text(one.probability), label)
        where = visible(f"{one.window.source}, {one.window.document_ids[0]}")
        text = _excerpt(one.window, one.target, found, names)
        rows.append((where, text, *told, number_text(one.entropy)))
    of_score = ("text", "what is read", "score", "distance from the label")
    of_class = ("text", "what is read", "answer", "probability", "label", "entropy in nats")
    yield ClassTable(
        caption="Scores farthest from their labels"
        if is_score
        else "Examples that the teacher is least sure of",
        headings=of_score if is_score else of_class,
        rows=tuple(rows),
    )


def _excerpt(window: Window, target: int, found: ClassStatistics, names: TokenNames) -> str:
    """Return the beginning of a text, or what is around a token, which stands in brackets."""
    ids = window.input_ids_L.tolist()
    if found.schema.convention.is_of_windows:
        more = " ..." if len(ids) > _MOST_TOKENS else ""
        return " ".join(names[one] for one in ids[:_MOST_TOKENS]) + more
    place = int(window.target_positions_T[target])
    before = [names[one] for one in ids[max(0, place - _AROUND) : place]]
    after = [names[one] for one in ids[place + 1 : place + 1 + _AROUND]]
    return " ".join([*before, f"[{names[ids[place]]}]", *after])
