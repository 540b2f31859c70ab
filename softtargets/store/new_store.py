"""A whole store from windows, unit by unit; interrupted, it is continued by the same call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from softtargets.errors import InputError
from softtargets.places.place import Place
from softtargets.store.drift import write_drift
from softtargets.store.layer_file import LAYERS_NAME
from softtargets.store.output_head import OUTPUT_HEAD_NAME
from softtargets.store.store import Store
from softtargets.store.vocabulary import VOCABULARY_NAME
from softtargets.store.writer import StoreWriter
from softtargets.window import Window, cut_windows


def write_store(
    windows: Iterable[Window],
    output: Path | Place,
    identity: Mapping[str, Any],
    *,
    teacher: str,
    side_files: Callable[[], Mapping[str, bytes]],
    counts: dict[str, int],
    next_step: str,
    drift: Mapping[str, Any] | None = None,
    rounding: Mapping[str, Mapping[str, float]] | None = None,
) -> Store:
    """Write windows as the store of an identity, and return it.

    Args:
        windows: the same on every call with this identity; one unit of them is in memory.
        output: the directory, or the place.
        identity: of the store.
        teacher: what people call it.
        side_files: returns the contents of the files beside the shards, by name.
        counts: what the manifest says of the corpus, as it stands after the last window; windows
            and tokens are added.
        next_step: what to do when there is no window at all.
        drift: what the manifest says of it, if it is known.
        rounding: the same.

    Raises:
        InputError: there is no window.
        StoreError: the output cannot be written.
    """
    counts |= {"windows": 0, "tokens": 0}
    windows = _checked_to_be_some(windows, str(output), next_step)
    with StoreWriter.hold(output, identity) as writer:
        if not writer.is_complete:
            _write_side_files(writer, side_files())
            if drift:
                write_drift(writer.place, drift)
            num_units = _write_units(writer, windows, counts)
            writer.commit(num_units, teacher, counts, rounding)
    return Store.open(output)


def _checked_to_be_some(windows: Iterable[Window], output: str, next_step: str) -> Iterable[Window]:
    # Looked for before there is a directory, which would be left behind.
    iterator = iter(windows)
    first = next(iterator, None)
    if first is None:
        raise InputError(
            output,
            expected="at least one window in the new store",
            found="none",
            next_step=next_step,
        )
    return chain([first], iterator)


def _write_side_files(writer: StoreWriter, files: Mapping[str, bytes]) -> None:
    if OUTPUT_HEAD_NAME in files:
        writer.write_output_head(files[OUTPUT_HEAD_NAME])
    if LAYERS_NAME in files:
        writer.write_layers(files[LAYERS_NAME])
    if VOCABULARY_NAME in files:
        writer.write_vocabulary(files[VOCABULARY_NAME])


def _write_units(writer: StoreWriter, windows: Iterable[Window], counts: dict[str, int]) -> int:
    """Write the units that are not done, count their windows, and return how many there are."""
    done = writer.recorded()
    num_units = 0
    for group in cut_windows(windows, writer.identity["unit_tokens"]):
        if num_units not in done:
            writer.write_unit(num_units, group, {})
        num_units += 1
        counts["windows"] += len(group)
        counts["tokens"] += sum(len(window) for window in group)
    return num_units
