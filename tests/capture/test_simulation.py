"""A build on simulated time: workers and the driver die, and each unit is in the store once."""

from __future__ import annotations

import pytest

from softtargets.errors import StoreError
from softtargets.store.shard_table import ShardEntry
from softtargets.store.unit_records import UnitRecords
from tests.benchmarks.scale import simulate
from tests.benchmarks.simulated_place import SimulatedPlace


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_whoever_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[int] = []
    write = UnitRecords.write

    def watched(self: UnitRecords, entry: ShardEntry, content: bytes) -> ShardEntry:
        found = write(self, entry, content)
        if isinstance(self._place, SimulatedPlace):
            recorded.append(found.unit)
        return found

    monkeypatch.setattr(UnitRecords, "write", watched)
    found = simulate(1500, 10)
    # The store itself is checked by the simulation.
    assert found.building.num_deaths > 0
    assert sorted(recorded) == list(range(1500))
    assert found.building.hours > found.building.ideal_hours


@pytest.mark.slow
def test_a_record_that_is_lost_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    put = SimulatedPlace.put_if_absent

    def forgetful(self: SimulatedPlace, path: str, content: bytes) -> bool:
        return True if path.endswith("records/unit-000007.json") else put(self, path, content)

    monkeypatch.setattr(SimulatedPlace, "put_if_absent", forgetful)
    with pytest.raises(StoreError, match="1 missing: 7"):
        simulate(100, 10)
