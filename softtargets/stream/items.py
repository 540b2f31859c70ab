"""What the dataset delivers: windows, or rows of them, and what stands where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from softtargets.errors import CorruptionError
from softtargets.store.row import Row, row_of
from softtargets.store.row_group_table import RowGroupRef
from softtargets.store.store import Store
from softtargets.stream.mixed_reader import MixedReader
from softtargets.stream.mixture import Mixture
from softtargets.stream.read_ahead import StreamStats
from softtargets.targets import TargetSchema
from softtargets.targets.truncate import narrow
from softtargets.window import Window

PADDING_ID = ""
"""The window_id of a row that only fills a batch up: nothing of it is trained on."""


class Items:
    """Reads the windows of a mixture's stores in the form in which they are delivered.

    Args:
        mixture: whose windows.
        schema: what their targets are to be; those stored, or fewer entries or temperatures.
        as_rows: whether they are to be batched.
        skip_damaged: whether padding stands in the place of what is damaged.
    """

    def __init__(
        self, mixture: Mixture, schema: TargetSchema, *, as_rows: bool, skip_damaged: bool
    ) -> None:
        self._mixture = mixture
        self._stores = mixture.stores
        self._schema = schema
        self._skip_damaged = skip_damaged
        self._read = self._read_rows if as_rows else self._read_windows

    @property
    def reads(self) -> list[Callable[[RowGroupRef], Sequence[Any]]]:
        """Return what reads a row group of each store."""
        return [partial(self._read, store) for store in self._stores]

    def at(self, reader: MixedReader[Any], places: Sequence[int], stats: StreamStats) -> list[Any]:
        """Return what is at some places, padding where there is nothing, and count it."""
        num_windows = len(self._mixture)
        items = [reader.item(place) if place < num_windows else None for place in places]
        found = [item for item in items if item is not None]
        stats.windows += len(found)
        stats.tokens += sum(map(len, found))
        if len(found) < len(items):
            # What is missing below the number of windows is damaged.
            in_store = sum(place < num_windows for place in places)
            stats.skipped_windows += in_store - len(found)
            padding = self._padding(found[0] if found else self._first())
            items = [padding if item is None else item for item in items]
        return items

    def _padding(self, like: Window | Row) -> Window | Row:
        """Return what stands in a place without a window: no place of it is a target."""
        if isinstance(like, Row):
            mask = np.zeros_like(like.columns["mask"])
            return replace(like, window_id=PADDING_ID, columns={**like.columns, "mask": mask})
        return replace(like, window_id=PADDING_ID, mask_T=np.zeros_like(like.mask_T))

    def _first(self) -> Any:
        """Return the first window that can be read, to make padding of.

        Raises:
            CorruptionError: none can, or not the first, and what is damaged is not to be skipped.
        """
        error: CorruptionError | None = None
        for store, read in zip(self._stores, self.reads, strict=True):
            for ref in store.row_groups:
                try:
                    return read(ref)[0]
                except CorruptionError as found:
                    if not self._skip_damaged:
                        raise
                    error = found
        assert error is not None
        raise error

    def _read_windows(self, store: Store, ref: RowGroupRef) -> list[Window]:
        windows, stored = store.read_row_group(ref), store.targets
        if (stored.head, stored.temperatures) == (self._schema.head, self._schema.temperatures):
            return windows
        return [replace(window, packed=narrow(window.packed, self._schema)) for window in windows]

    def _read_rows(self, store: Store, ref: RowGroupRef) -> list[Row]:
        if self._schema.head == store.targets.head:
            return store.read_rows(ref)  # Columns of other temperatures go into no batch.
        return [row_of(window) for window in self._read_windows(store, ref)]
