"""The shards of a manifest and their row groups, kept as columns.

A store may have millions of shards: an object for each would take longer to make, and more memory
in every worker process, than all that a loader holds besides. An entry is made when it is asked
for.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import pyarrow.compute as pc

from softtargets.store.row_group_table import RowGroupTable
from softtargets.store.shard_columns import ShardCollector, ShardColumns


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """The part of a shard that is read at once: a range of its bytes."""

    num_windows: int
    num_positions: int
    offset: int
    num_bytes: int
    xxh3: str
    """XXH3 (64 bits, hexadecimal) of the range: fast enough to be checked on every read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One shard: the Parquet file that a unit of work became."""

    unit: int
    path: str
    """Relative to the store, with forward slashes."""
    num_bytes: int
    sha256: str
    footer_bytes: int
    """Size of what follows the last row group, to the end of the file."""
    footer_xxh3: str
    row_groups: tuple[RowGroup, ...]
    run: Mapping[str, Any]
    """How the unit was run where that changes numbers by rounding noise only."""

    @property
    def num_windows(self) -> int:
        """Return the number of rows."""
        return sum(group.num_windows for group in self.row_groups)

    @property
    def num_positions(self) -> int:
        """Return the number of targets."""
        return sum(group.num_positions for group in self.row_groups)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ShardEntry:
        """Parse the JSON form, already checked against the manifest's JSON Schema.

        A later release may have added fields: they are left out.
        """
        groups = tuple(RowGroup(**_known(RowGroup, group)) for group in data["row_groups"])
        return cls(**{**_known(cls, data), "row_groups": groups})

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        groups = [_fields(group) for group in self.row_groups]
        return _fields(self) | {"row_groups": groups}


def _known(kind: type[RowGroup | ShardEntry], data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: data[name] for name in _NAMES[kind]}


def _fields(one: RowGroup | ShardEntry) -> dict[str, Any]:
    return {name: getattr(one, name) for name in _NAMES[type(one)]}


_NAMES = {
    kind: tuple(field.name for field in dataclasses.fields(kind)) for kind in (RowGroup, ShardEntry)
}


class ShardTable(Sequence[ShardEntry]):
    """The entries of all shards, in the order of the corpus."""

    def __init__(self, columns: ShardColumns) -> None:
        self.columns = columns

    @classmethod
    def of(cls, entries: Iterable[ShardEntry]) -> ShardTable:
        """Return a table of some entries."""
        return cls.from_dicts(entry.to_dict() for entry in entries)

    @classmethod
    def from_dicts(cls, entries: Iterable[Mapping[str, Any]]) -> ShardTable:
        """Return a table of entries in their JSON form, already checked against the schema."""
        collector = ShardCollector()
        for entry in entries:
            collector.add(entry)
        return cls(collector.columns())

    def __len__(self) -> int:
        return len(self.columns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardTable) and tuple(self) == tuple(other)

    @overload
    def __getitem__(self, index: int) -> ShardEntry: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[ShardEntry, ...]: ...

    def __getitem__(self, index: int | slice) -> ShardEntry | tuple[ShardEntry, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(len(self))))
        at, own = range(len(self))[index], self.columns
        rows = range(int(own.first_groups[at]), int(own.first_groups[at + 1]))
        return ShardEntry(
            unit=int(own.unit[at]),
            path=own.path[at].as_py(),
            num_bytes=int(own.num_bytes[at]),
            sha256=own.sha256[at].tobytes().hex(),
            footer_bytes=int(own.footer_bytes[at]),
            footer_xxh3=own.footer_xxh3[at].tobytes().hex(),
            row_groups=tuple(self._row_group(row) for row in rows),
            run=json.loads(own.run[at].as_py()),
        )

    def _row_group(self, row: int) -> RowGroup:
        return RowGroup(
            **{name: int(column[row]) for name, column in self.columns.groups.items()},
            xxh3=self.columns.group_xxh3[row].tobytes().hex(),
        )

    @property
    def paths(self) -> list[str]:
        """Return the paths of all shards."""
        found: list[str] = self.columns.path.to_pylist()
        return found

    @property
    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of every shard by its path."""
        return {
            path: own.hex()
            for path, own in zip(self.paths, map(bytes, self.columns.sha256), strict=True)
        }

    @property
    def num_windows(self) -> int:
        """Return the number of windows of all shards."""
        return int(self.columns.groups["num_windows"].sum())

    @property
    def num_positions(self) -> int:
        """Return the number of targets of all shards."""
        return int(self.columns.groups["num_positions"].sum())

    @property
    def num_bytes(self) -> int:
        """Return the size of all shards."""
        return int(self.columns.num_bytes.sum())

    @property
    def most_windows(self) -> int:
        """Return the number of windows of the row group that has most."""
        return int(self.columns.groups["num_windows"].max())

    @property
    def sum_of_positions(self) -> float:
        """Return `num_positions`, about, also where it is no number of 64 bits."""
        return float(self.columns.groups["num_positions"].sum(dtype=np.float64))

    @property
    def largest_read(self) -> int:
        """Return the size of the largest row group and of the largest footer together."""
        largest = (self.columns.groups["num_bytes"].max(), self.columns.footer_bytes.max())
        return int(sum(largest))

    @property
    def row_groups(self) -> RowGroupTable:
        """Return where all row groups are."""
        num_windows, firsts = self.columns.groups["num_windows"], self.columns.first_groups
        sizes = np.diff(firsts)
        return RowGroupTable(
            shards=np.repeat(np.arange(len(self)), sizes),
            groups=np.arange(len(num_windows)) - np.repeat(firsts[:-1], sizes),
            num_windows=num_windows,
        )

    def misplaced(self) -> int | None:
        """Return the first shard that is not of its place's unit, or whose parts do not cover it.

        Row groups follow each other from the start of the file, and the footer follows them.
        """
        own, firsts = self.columns, self.columns.first_groups
        ends = np.concatenate([[0], np.cumsum(own.groups["num_bytes"])])
        own_starts = np.repeat(ends[firsts[:-1]], np.diff(firsts))
        is_apart = own.groups["offset"] != ends[:-1] - own_starts
        num_apart = np.concatenate([[0], np.cumsum(is_apart)])
        is_wrong = np.diff(num_apart[firsts]) > 0
        is_wrong |= own.unit != np.arange(len(self))
        is_wrong |= np.diff(ends[firsts]) + own.footer_bytes != own.num_bytes
        return int(is_wrong.argmax()) if is_wrong.any() else None

    def crowded(self) -> int | None:
        """Return the first shard with a row group too small for the ids of its windows.

        Each is another 128 bits of a hash, which nothing compresses.
        """
        groups = self.columns.groups
        is_small = groups["num_bytes"] < 16 * groups["num_windows"]
        group = int(is_small.argmax())
        return self._shard_of(group) if is_small[group] else None

    def repeated(self) -> int | None:
        """Return the first shard whose path is that of one before it."""
        path = self.columns.path
        lengths, is_greater = pc.binary_length(path).to_numpy(), pc.less(path[:-1], path[1:])
        rises = lengths[:-1] < lengths[1:]
        rises |= (lengths[:-1] == lengths[1:]) & is_greater.to_numpy(zero_copy_only=False)
        # Numbered ones rise: a set of a million texts is not needed then.
        if rises.all() or len(pc.unique(path)) == len(path):
            return None
        firsts = pc.index_in(path, pc.unique(path)).to_numpy()
        return int((np.maximum.accumulate(np.append(-1, firsts[:-1])) >= firsts).argmax())

    def _shard_of(self, row: int) -> int:
        return int(np.searchsorted(self.columns.first_groups, row, side="right")) - 1
