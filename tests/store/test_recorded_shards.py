"""What a commit collects of records is the same whichever order they come in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from softtargets.store.recorded_shards import RecordedShards
from softtargets.store.rounding import RoundingError, noted
from softtargets.store.shard_table import ShardEntry
from tests.store.test_shard_table import ENTRIES

NUM_UNITS = 40


def errors_of(rng: np.random.Generator) -> RoundingError:
    squares, total, largest = (10.0 ** rng.uniform(-9, 9, 3)).tolist()
    return RoundingError(squares=squares, total=total, largest=largest)


def test_units_come_in_any_order(rng: np.random.Generator) -> None:
    plain = [replace(ENTRIES[unit % 3], unit=unit) for unit in range(NUM_UNITS)]
    errors = [{"last": errors_of(rng), "first": errors_of(rng)} for _ in plain]
    recorded = [
        replace(entry, run=noted(entry.run, own)) for entry, own in zip(plain, errors, strict=True)
    ]
    # Floats add up to other bits in another order.
    sums = {name: sum((own[name] for own in errors), RoundingError()) for name in errors[0]}
    expected = {name: one.to_dict() for name, one in sums.items()}
    for order in (range(NUM_UNITS), rng.permutation(NUM_UNITS)):
        found = RecordedShards.of((recorded[unit] for unit in order), NUM_UNITS)
        assert tuple(found.shards) == tuple(plain)
        assert found.rounding == expected
        assert list(found.rounding) == ["last", "first"]
        assert found.missing == []


def test_units_that_are_missing_are_named() -> None:
    units = (3, 0)
    entries: list[ShardEntry] = [replace(ENTRIES[0], unit=unit) for unit in units]
    found = RecordedShards.of(entries, 5)
    assert found.missing == [1, 2, 4]
    assert [entry.unit for entry in found.shards] == [0, 3]
    assert RecordedShards.of([], 2).missing == [0, 1]
