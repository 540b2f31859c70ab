"""What a manifest says of shards and their row groups, as arrays: no object for a shard.

N  shards
G  row groups of all shards, one shard's after the other's
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from softtargets.store.row_group_table import Numbers

Digests = npt.NDArray[np.uint8]
SHA256_BYTES, XXH3_BYTES = 32, 8
GROUP_NUMBERS = ("num_windows", "num_positions", "offset", "num_bytes")
_SHARD_NUMBERS = ("unit", "num_bytes", "footer_bytes")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardColumns:
    """The columns of shards and of row groups."""

    unit: Numbers
    """[N]"""
    path: pa.StringArray
    """[N]"""
    num_bytes: Numbers
    """[N]"""
    sha256: Digests
    """[N, 32]"""
    footer_bytes: Numbers
    """[N]"""
    footer_xxh3: Digests
    """[N, 8]"""
    run: pa.DictionaryArray
    """[N], JSON objects."""
    first_groups: Numbers
    """[N + 1], where the row groups of each shard begin, and the last's end."""
    groups: Mapping[str, Numbers]
    """[G] of each of `GROUP_NUMBERS`."""
    group_xxh3: Digests
    """[G, 8]"""

    def __len__(self) -> int:
        return len(self.unit)

    def take(self, places: Numbers) -> ShardColumns:
        """Return the shards at some places, in that order."""
        sizes = np.diff(self.first_groups)[places]
        first_groups = np.concatenate([[0], np.cumsum(sizes)])
        within = np.arange(first_groups[-1]) - np.repeat(first_groups[:-1], sizes)
        rows = np.repeat(self.first_groups[places], sizes) + within
        return ShardColumns(
            unit=self.unit[places],
            path=self.path.take(pa.array(places)),
            num_bytes=self.num_bytes[places],
            sha256=self.sha256[places],
            footer_bytes=self.footer_bytes[places],
            footer_xxh3=self.footer_xxh3[places],
            run=self.run.take(pa.array(places)),
            first_groups=first_groups,
            groups={name: column[rows] for name, column in self.groups.items()},
            group_xxh3=self.group_xxh3[rows],
        )


class ShardCollector:
    """Shards that become columns, one after the other."""

    def __init__(self) -> None:
        self._numbers = {name: array("q") for name in _SHARD_NUMBERS}
        self._groups = {name: array("q") for name in GROUP_NUMBERS}
        self._path_ends = array("i", [0])
        self._group_ends = array("q", [0])
        self._paths, self._sha256, self._footer_xxh3 = bytearray(), bytearray(), bytearray()
        self._group_xxh3 = bytearray()
        # A few ways of running are shared by all.
        self._runs: dict[str, int] = {}
        self._run_numbers = array("i")

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add a shard in its JSON form, already checked against the manifest's JSON Schema."""
        for name, numbers in self._numbers.items():
            numbers.append(entry[name])
        # The JSON Schema allows nothing but ASCII.
        self._paths += entry["path"].encode()
        self._path_ends.append(len(self._paths))
        self._sha256 += bytes.fromhex(entry["sha256"])
        self._footer_xxh3 += bytes.fromhex(entry["footer_xxh3"])
        run = json.dumps(entry["run"], sort_keys=True)
        self._run_numbers.append(self._runs.setdefault(run, len(self._runs)))
        for group in entry["row_groups"]:
            for name, numbers in self._groups.items():
                numbers.append(group[name])
            self._group_xxh3 += bytes.fromhex(group["xxh3"])
        self._group_ends.append(len(self._groups["offset"]))

    def columns(self) -> ShardColumns:
        """Return what was added; nothing can be added any more."""
        num_shards = len(self._run_numbers)
        buffers = [None, pa.py_buffer(self._path_ends), pa.py_buffer(self._paths)]
        return ShardColumns(
            **{name: _numbers(own) for name, own in self._numbers.items()},
            path=pa.StringArray.from_buffers(num_shards, buffers[1], buffers[2]),
            sha256=_digests(self._sha256, SHA256_BYTES),
            footer_xxh3=_digests(self._footer_xxh3, XXH3_BYTES),
            run=pa.DictionaryArray.from_arrays(
                pa.array(np.frombuffer(self._run_numbers, np.int32)),
                pa.array(list(self._runs), pa.string()),
            ),
            first_groups=_numbers(self._group_ends),
            groups={name: _numbers(own) for name, own in self._groups.items()},
            group_xxh3=_digests(self._group_xxh3, XXH3_BYTES),
        )


def _numbers(own: array[int]) -> Numbers:
    return np.frombuffer(own, np.int64)


def _digests(own: bytearray, width: int) -> Digests:
    return np.frombuffer(own, np.uint8).reshape(-1, width)
