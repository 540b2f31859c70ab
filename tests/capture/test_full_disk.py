"""A disk that is full while a store is built on it: what is recorded stays, and a build goes on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch

from softtargets.capture import build
from softtargets.engines import Engine, InProcess, Processes
from softtargets.errors import StoreError
from softtargets.store import verify
from tests.fakes import FakeTeacher, build_config, build_store, shard_bytes

pytestmark = pytest.mark.slow


class Filling(FakeTeacher):
    """A teacher whose disk is filled by others at one of its batches in a process, once."""

    def __init__(self, filler: Path, batch: int = 0) -> None:
        super().__init__()
        self.filler, self.batch, self.num_batches = filler, batch, 0

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        self.num_batches += 1
        if self.num_batches == self.batch and not self.filler.exists():
            fill(self.filler)
        return super().hidden_states(input_ids_BL)


def fill(filler: Path) -> None:
    """Write until the disk has no room for another byte."""
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 16, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    (tmp_path / "whole").mkdir()
    return shard_bytes(build_store(tmp_path / "whole").root)


@pytest.mark.parametrize(
    ("engine", "batch", "least"),
    [
        (InProcess(), 8, 1),  # Of the third unit: the first is written by then.
        (Processes(2), 3, 0),
    ],
)
def test_the_same_command_goes_on_when_there_is_room(
    small_disk: Path, expected: dict[str, bytes], engine: Engine, batch: int, least: int
) -> None:
    config, filler = build_config(small_disk), small_disk / "filler"
    with pytest.raises(StoreError, match=r"cannot be written: .*No space left on device"):
        build(config, Filling(filler, batch), engine=engine)
    records = list((config.output / "work" / "records").glob("unit-*.json"))
    assert len(records) >= least
    assert not list(config.output.rglob("*.tmp"))
    # It says the same while there is no room, and loses nothing.
    with pytest.raises(StoreError, match=r"cannot be written: .*No space left on device"):
        build(config, Filling(filler), engine=engine)
    filler.unlink()
    result = build(config, FakeTeacher(), engine=engine)
    assert result.num_units_before == len(records) < result.num_units
    assert shard_bytes(config.output) == expected
    assert verify(config.output).is_sound
