from __future__ import annotations

import gc
from dataclasses import asdict, replace

import numpy as np
import pytest

from softtargets import SoftTargetDataset, Store
from softtargets.store.row_group_table import RowGroupRef
from softtargets.store.shard_table import RowGroup, ShardEntry, ShardTable

ENTRIES = tuple(
    ShardEntry(
        unit=unit,
        path=f"shards/unit-{unit:06d}.parquet",
        num_bytes=100 * sizes + 30 + unit,
        sha256=f"{unit:064x}",
        footer_bytes=30 + unit,
        footer_xxh3=f"{unit:016x}",
        row_groups=tuple(
            RowGroup(
                num_windows=group + 1,
                num_positions=7 * (group + 1),
                offset=100 * group,
                num_bytes=100,
                xxh3=f"{unit * 16 + group:016x}",
            )
            for group in range(sizes)
        ),
        run={"device": "cpu", "batch_tokens": 64 if unit % 2 else 32},
    )
    for unit, sizes in enumerate((3, 1, 4))
)


def test_entries_come_out_as_they_went_in() -> None:
    table = ShardTable.of(ENTRIES)
    assert tuple(table) == ENTRIES
    assert table[-1] == ENTRIES[-1]
    assert table[:2] == ENTRIES[:2]
    assert table == ShardTable.from_dicts([asdict(entry) for entry in ENTRIES])
    assert table != ShardTable.of(ENTRIES[:2])
    assert table != ENTRIES
    with pytest.raises(IndexError):
        table[3]
    assert table.num_windows == sum(entry.num_windows for entry in ENTRIES)
    assert table.num_positions == sum(entry.num_positions for entry in ENTRIES)
    assert table.num_bytes == sum(entry.num_bytes for entry in ENTRIES)
    assert table.largest_read == 100 + 32


def test_row_groups_are_in_the_order_of_the_corpus() -> None:
    groups = ShardTable.of(ENTRIES).row_groups
    expected, first = [], 0
    for shard, entry in enumerate(ENTRIES):
        for group, one in enumerate(entry.row_groups):
            ref = RowGroupRef(
                shard=shard, group=group, first_window=first, num_windows=one.num_windows
            )
            expected.append(ref)
            first += one.num_windows
    assert list(groups) == expected
    assert groups[2:4] == tuple(expected[2:4])
    for number, ref in enumerate(expected):
        for row in range(ref.num_windows):
            assert groups.at(ref.first_window + row) == number


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_shard_that_is_not_covered_is_found(place: int) -> None:
    assert ShardTable.of(ENTRIES).misplaced() is None
    entry = ENTRIES[place]
    last = entry.row_groups[-1]
    for wrong in (
        replace(entry, unit=9),
        replace(entry, num_bytes=entry.num_bytes + 1),
        replace(entry, footer_bytes=entry.footer_bytes - 1),
        # Both ends are right, and the file is covered, but a row group begins elsewhere.
        replace(entry, row_groups=(*entry.row_groups[:-1], replace(last, offset=last.offset + 1))),
    ):
        entries = [*ENTRIES]
        entries[place] = wrong
        assert ShardTable.of(entries).misplaced() == place


def test_shards_are_put_in_another_order_with_their_row_groups() -> None:
    columns = ShardTable.of(ENTRIES).columns.take(np.array([2, 0, 1, 0]))
    assert tuple(ShardTable(columns)) == tuple(ENTRIES[place] for place in (2, 0, 1, 0))


def test_paths_and_hashes_are_those_of_the_entries() -> None:
    table = ShardTable.of(ENTRIES)
    assert table.paths == [entry.path for entry in ENTRIES]
    assert table.hashes == {entry.path: entry.sha256 for entry in ENTRIES}


@pytest.mark.parametrize(("first", "again"), [(0, 1), (0, 2), (1, 2)])
def test_a_path_that_stands_twice_is_found(first: int, again: int) -> None:
    assert ShardTable.of(ENTRIES).repeated() is None
    entries = [*ENTRIES]
    entries[again] = replace(entries[again], path=entries[first].path)
    assert ShardTable.of(entries).repeated() == again


def test_no_object_is_kept_for_a_shard(store: Store) -> None:
    opened = Store.open(store.root)
    dataset = SoftTargetDataset(opened, shuffle=True, batch_size=4, num_threads=0)
    assert len(opened.manifest.shards) > 3
    stream = iter(dataset)
    next(stream)
    del store
    gc.collect()
    kept = [one for one in gc.get_objects() if type(one) in (ShardEntry, RowGroup)]
    of_tests = {id(one) for entry in ENTRIES for one in (entry, *entry.row_groups)}
    assert [one for one in kept if id(one) not in of_tests] == []
    next(stream)
