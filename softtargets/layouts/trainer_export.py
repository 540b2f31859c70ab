"""A store in columns that a tool's own trainer reads, with what was lost and what it is told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from softtargets.layouts.layout import Option
from softtargets.layouts.parquet_export import (
    ABOUT_NAME,
    describe_store,
    new_directory,
    write_json,
    write_shards,
)
from softtargets.layouts.sequences import EntriesView, TokenSequence, batched
from softtargets.places.local_files import write_file
from softtargets.store.card import code_span
from softtargets.store.store import Store
from softtargets.window import Window

_DATA_NAME = "data"

ENTRIES_OPTIONS = (
    Option("top_k", int, "Entries to write.  [default: all]"),
    Option("without_draws", bool, "Omit the draws of a store. Its targets are then biased."),
)
"""What every layout without a place for more than entries asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerExport:
    """What goes into the directory that a trainer reads: a row for each document of a window."""

    store: Store
    view: EntriesView
    layout: str
    """Its name."""
    trainer: str
    """What people call it."""
    columns: Callable[[list[TokenSequence]], Mapping[str, pa.Array]]
    """Makes the columns of some sequences."""
    config: Mapping[str, Any]
    """What of the trainer's configuration they need."""
    rows_at_once: int = sys.maxsize
    """How many sequences become columns at a time."""
    lost: tuple[str, ...] = ()
    """What only this layout loses, a sentence for each."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What else the trainer reads, by name."""

    def write(self, output: str | Path) -> Path:
        """Write the directory, and return it.

        Raises:
            InputError: a value is none that the layout can hold.
            StoreError: the store cannot be read, or the output is not an empty directory.
        """
        directory = new_directory(output)
        about = describe_store(self.store) | {
            "layout": self.layout,
            "values": self.view.values,
            "temperature": self.view.temperature,
            "lost": [*describe_loss(self.store, self.view), *self.lost],
        }
        write_shards(self.store, directory / _DATA_NAME, about, self._tables)
        write_json(directory / ABOUT_NAME, {**about, "config": self.config})
        write_file(directory / "README.md", self._readme(about["lost"]).encode())
        for name, content in self.files.items():
            write_file(directory / name, content)
        return directory

    def _tables(self, groups: Iterator[list[Window]]) -> Iterator[pa.Table]:
        sequences = (one for windows in groups for one in self.view.sequences(windows))
        for some in batched(sequences, self.rows_at_once):
            yield pa.table(dict(self.columns(some)))

    def _readme(self, lost: list[str]) -> str:
        """Return the README, whose front matter tells the Hub which files are data."""
        data_files = f"{_DATA_NAME}/*.parquet"
        front = {"configs": [{"config_name": "default", "data_files": data_files}]}
        losses = "\n".join(f"- {loss}" for loss in lost)
        return f"""---
{yaml.safe_dump(front, sort_keys=False)}---

# Soft targets for {self.trainer}

Written by `softtargets export --to {self.layout}` from a store of \
{code_span(self.store.manifest.teacher)}, fingerprint
`{self.store.fingerprint}`: {self.store.targets.describe()}.

Not in here:

{losses}

What the trainer has to be told:

```yaml
{yaml.safe_dump(dict(self.config), sort_keys=False)}```
"""


def describe_loss(store: Store, view: EntriesView) -> Iterator[str]:
    """Yield what of a store's targets no such export has, a sentence for each."""
    schema = store.targets
    assert schema.head is not None
    others = [f"{one:g}" for one in schema.temperatures if one != view.temperature]
    own = f"temperature {view.temperature:g}"
    yield "Which windows and documents the rows are from: a row is a document's part of a window."
    yield "The level of the logits: there are log-probabilities."
    if view.values == "renormalised":
        yield f"The tail: its mass is divided among the kept entries, at {own}."
    else:
        yield f"The tail but for its mass at {own}, which is 1 - sum(exp(log-prob))."
    if others:
        yield f"The tail mass at {', '.join(others)}."
    if view.top_k < schema.head.max_entries:
        yield f"Entries after the first {view.top_k} of {schema.head.max_entries}."
    if schema.samples is not None:
        yield "The draws: what is left is a biased estimate of the distribution."
    if schema.label_logits:
        yield "The labels' logits and ranks."
    for feature in schema.features:
        yield f"The feature {code_span(feature.name)}."
