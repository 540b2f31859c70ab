"""A store as an IterableDataset of the library `datasets`, in the plain form of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from softtargets.layouts.plain_table import plain_table
from softtargets.store.row_group_table import RowGroupRef
from softtargets.store.stored_windows import StoredWindows

if TYPE_CHECKING:
    from datasets import IterableDataset


def as_iterable_dataset(store: StoredWindows) -> IterableDataset:
    """Return what `Store.as_dataset` promises."""
    # Importing it takes a second, and it is needed for nothing else.
    from datasets import Features, IterableDataset

    first = plain_table(store.read_row_group(store.row_groups[0]), store.targets)
    return IterableDataset.from_generator(
        _rows,
        features=Features.from_arrow_schema(first.schema),
        # Each row group is a shard to `datasets`: what it shuffles, hands to workers and skips.
        gen_kwargs={"store": store, "row_groups": list(store.row_groups)},
    )


def _rows(store: StoredWindows, row_groups: Sequence[RowGroupRef]) -> Iterator[dict[str, Any]]:
    for ref in row_groups:
        yield from plain_table(store.read_row_group(ref), store.targets).to_pylist()
