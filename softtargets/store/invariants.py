"""What the format promises of every window beyond the shape of its columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from softtargets.errors import CorruptionError
from softtargets.store.column_checks import column_faults
from softtargets.store.row import cells_of
from softtargets.targets import Origin, Promise, SoftTargets, broken, parts_of
from softtargets.targets.evidence import Evidence
from softtargets.targets.promises import Promises
from softtargets.window import TokenWindow, Window, content_hash

UNKNOWN = Origin()


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One promise that does not hold."""

    where: str
    expected: str
    found: str


def check_window(window: Window, where: str, origin: Origin = UNKNOWN) -> Iterator[Problem]:
    """Check one window against the format's invariants.

    Each level relies on the one before it: values by themselves, the parts of a target by
    themselves, and what the parts say about each other.

    Args:
        window: as it was read, whatever its values.
        where: what it was read from.
        origin: how the store's targets were made.
    """
    where = f"{where}, window {window.window_id}"
    yield from _problems(_token_promises(window), where)
    schema = window.packed.schema
    faults = list(column_faults(*cells_of(window), schema))
    for fault in faults:
        yield Problem(
            where=f"{where}, column {fault.column}", expected=fault.expected, found=fault.found
        )
    if faults:
        return
    try:
        targets = window.targets
    except CorruptionError as error:
        yield Problem(where=f"{where}, {error.where}", expected=error.expected, found=error.found)
        return
    cells = window.packed.cells
    promises = (one for part in parts_of(schema) for one in part.promises(cells, targets))
    problems = list(_problems(promises, where))
    yield from problems
    if not problems:
        yield from _problems(_contradictions(window, targets, origin), where)


def _problems(promises: Iterable[Promise], where: str) -> Iterator[Problem]:
    for one in broken(promises):
        at = "" if one.position is None else f", position {one.position}"
        yield Problem(where=f"{where}{at}", expected=one.expected, found=one.found)


def _token_promises(window: TokenWindow) -> Promises:
    """Yield promises about a window's id and where it is from."""
    content, num_segments = content_hash(window), len(window.segment_lengths_S)
    yield Promise(
        f"the hash of its content as its id, {content}",
        content == window.window_id,
        window.window_id,
    )
    for name, texts in {"document ids": window.document_ids, **window.metadata}.items():
        words = name if texts is window.document_ids else f"texts of {name}"
        yield Promise(
            f"{num_segments} {words}, one for each segment",
            len(texts) == num_segments,
            f"{len(texts)}",
        )
    yield Promise("an offset that is not negative", window.offset >= 0, f"{window.offset}")


def _contradictions(window: Window, targets: SoftTargets, origin: Origin) -> Promises:
    """Yield what the parts of targets must be by what the others say.

    Args:
        window: whose columns are sound, each by itself.
        targets: of the window.
        origin: how they were made.
    """
    schema = window.packed.schema
    entries, draws = schema.entries, schema.draws
    evidence = Evidence(
        targets,
        vocab_size=schema.vocab_size,
        top_logit_T=window.packed.cells.get("top_logit"),
        label_ids_T=window.labels_T if schema.label_logits else None,
        entry_step=None if entries is None else entries.step,
        draw_step=None if draws is None else draws.step,
        grid_step=schema.grid_step,
        label_step=schema.label_step,
        is_tail_drawn=draws is not None and draws.origin == "tail",
        origin=origin,
    )
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for part in parts_of(schema):
            yield from part.contradictions(evidence)
