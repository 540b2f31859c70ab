"""The shards of a manifest and their row groups, kept as columns.

A store may have tens of thousands of shards: an object for each would take longer to make, and more
memory in every worker process, than all that a loader holds besides. An entry is made when it is
asked for.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


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


def _known(kind: type[RowGroup | ShardEntry], data: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: data[field.name] for field in dataclasses.fields(kind)}


class ShardTable(Sequence[ShardEntry]):
    """The entries of all shards, in the order of the corpus.

    Args:
        entries: in their JSON form, already checked against the manifest's JSON Schema.
    """

    def __init__(self, entries: Sequence[Mapping[str, Any]]) -> None:
        groups = [group for entry in entries for group in entry["row_groups"]]
        runs = [json.dumps(entry["run"], sort_keys=True) for entry in entries]
        # A few ways of running are shared by all.
        numbers = {run: number for number, run in enumerate(dict.fromkeys(runs))}
        self._runs = [json.loads(run) for run in numbers]
        self._run_numbers = np.array([numbers[run] for run in runs], np.int32)
        self._shards = {
            name: _numbers(entries, name) for name in ("unit", "num_bytes", "footer_bytes")
        }
        self._texts = {name: _texts(entries, name) for name in ("path", "sha256", "footer_xxh3")}
        self._groups = {
            name: _numbers(groups, name)
            for name in ("num_windows", "num_positions", "offset", "num_bytes")
        }
        self._group_xxh3 = _texts(groups, "xxh3")
        sizes = [len(entry["row_groups"]) for entry in entries]
        self._firsts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    @classmethod
    def of(cls, entries: Iterable[ShardEntry]) -> ShardTable:
        """Return a table of some entries."""
        return cls([dataclasses.asdict(entry) for entry in entries])

    def __len__(self) -> int:
        return len(self._run_numbers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardTable) and tuple(self) == tuple(other)

    @overload
    def __getitem__(self, index: int) -> ShardEntry: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[ShardEntry, ...]: ...

    def __getitem__(self, index: int | slice) -> ShardEntry | tuple[ShardEntry, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(len(self))))
        at = range(len(self))[index]
        rows = range(int(self._firsts[at]), int(self._firsts[at + 1]))
        numbers = {name: int(column[at]) for name, column in self._shards.items()}
        texts = {name: bytes(column[at]).decode() for name, column in self._texts.items()}
        return ShardEntry(
            unit=numbers["unit"],
            path=texts["path"],
            num_bytes=numbers["num_bytes"],
            sha256=texts["sha256"],
            footer_bytes=numbers["footer_bytes"],
            footer_xxh3=texts["footer_xxh3"],
            row_groups=tuple(self._row_group(row) for row in rows),
            run=self._runs[int(self._run_numbers[at])],
        )

    def _row_group(self, row: int) -> RowGroup:
        return RowGroup(
            **{name: int(column[row]) for name, column in self._groups.items()},
            xxh3=bytes(self._group_xxh3[row]).decode(),
        )

    @property
    def num_windows(self) -> int:
        """Return the number of windows of all shards."""
        return int(self._groups["num_windows"].sum())

    @property
    def num_positions(self) -> int:
        """Return the number of targets of all shards."""
        return int(self._groups["num_positions"].sum())

    @property
    def num_bytes(self) -> int:
        """Return the size of all shards."""
        return int(self._shards["num_bytes"].sum())

    @property
    def most_windows(self) -> int:
        """Return the number of windows of the row group that has most."""
        return int(self._groups["num_windows"].max())

    @property
    def sum_of_positions(self) -> float:
        """Return `num_positions`, about, also where it is no number of 64 bits."""
        return float(self._groups["num_positions"].sum(dtype=np.float64))

    @property
    def largest_read(self) -> int:
        """Return the size of the largest row group and of the largest footer together."""
        largest = (self._groups["num_bytes"].max(), self._shards["footer_bytes"].max())
        return int(sum(largest))

    @property
    def row_groups(self) -> RowGroupTable:
        """Return where all row groups are."""
        num_windows = self._groups["num_windows"]
        sizes = np.diff(self._firsts)
        return RowGroupTable(
            shards=np.repeat(np.arange(len(self)), sizes),
            groups=np.arange(len(num_windows)) - np.repeat(self._firsts[:-1], sizes),
            num_windows=num_windows,
        )

    def misplaced(self) -> int | None:
        """Return the first shard that is not of its place's unit, or whose parts do not cover it.

        Row groups follow each other from the start of the file, and the footer follows them.
        """
        starts, sizes = self._firsts[:-1], self._groups["num_bytes"]
        ends = np.concatenate([[0], np.cumsum(sizes)])
        own_starts = np.repeat(ends[starts], np.diff(self._firsts))
        is_apart = self._groups["offset"] != ends[:-1] - own_starts
        num_apart = np.concatenate([[0], np.cumsum(is_apart)])
        covered = np.diff(ends[self._firsts]) + self._shards["footer_bytes"]
        is_wrong = np.diff(num_apart[self._firsts]) > 0
        is_wrong |= self._shards["unit"] != np.arange(len(self))
        is_wrong |= covered != self._shards["num_bytes"]
        return int(is_wrong.argmax()) if is_wrong.any() else None

    def crowded(self) -> int | None:
        """Return the first shard with a row group too small for the ids of its windows.

        Each is another 128 bits of a hash, which nothing compresses.
        """
        is_small = self._groups["num_bytes"] < 16 * self._groups["num_windows"]
        group = int(is_small.argmax())
        return self._shard_of(group) if is_small[group] else None

    def _shard_of(self, row: int) -> int:
        return int(np.searchsorted(self._firsts, row, side="right")) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroupRef:
    """Where a row group lies: what the loader shuffles and reads."""

    shard: int
    group: int
    first_window: int
    """Place of its first window in the order of the corpus."""
    num_windows: int


class RowGroupTable(Sequence[RowGroupRef]):
    """Where row groups lie, in the order of the corpus.

    Args:
        shards: of each, which shard it is in.
        groups: and which of its row groups it is.
        num_windows: that it has, or that are chosen of it.
    """

    def __init__(self, *, shards: Numbers, groups: Numbers, num_windows: Numbers) -> None:
        self.shards, self.groups, self.num_windows = shards, groups, num_windows
        self.first_windows: Numbers = np.cumsum(num_windows) - num_windows

    def __len__(self) -> int:
        return len(self.num_windows)

    @overload
    def __getitem__(self, index: int) -> RowGroupRef: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[RowGroupRef, ...]: ...

    def __getitem__(self, index: int | slice) -> RowGroupRef | tuple[RowGroupRef, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(len(self))))
        at = range(len(self))[index]
        return RowGroupRef(
            shard=int(self.shards[at]),
            group=int(self.groups[at]),
            first_window=int(self.first_windows[at]),
            num_windows=int(self.num_windows[at]),
        )

    def at(self, place: int) -> int:
        """Return the number of the row group that a window's place lies in."""
        return int(np.searchsorted(self.first_windows, place, side="right")) - 1


def _numbers(rows: Sequence[Mapping[str, Any]], name: str) -> Numbers:
    return np.array([row[name] for row in rows], np.int64)


def _texts(rows: Sequence[Mapping[str, Any]], name: str) -> npt.NDArray[np.bytes_]:
    """Return texts; the JSON Schema allows nothing but ASCII."""
    return np.array([row[name].encode() for row in rows], np.bytes_)
