"""What shares windows among ranks a second time is refused; in one process it works as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from softtargets import SoftTargetDataset, Store, collate
from softtargets.errors import InputError
from softtargets.stream.world import check_reader
from tests.train.programs import launch

UNNAMED = "InputError: SoftTargetDataset, world_size: expected the number of ranks"
TWICE = "InputError: SoftTargetDataset: expected to be read as it is"


@pytest.mark.slow
def test_no_trainer_shares_windows_twice_in_silence(store: Store, tmp_path: Path) -> None:
    for raised in launch("misuses", store.root, num_processes=2, directory=tmp_path / "out"):
        assert raised.pop("named, alone") == f"{len(store)} windows"
        for name, message in raised.items():
            expected = UNNAMED if name.startswith(("no rank", "wrong world")) else TWICE
            assert expected in message, f"{name}: {message}"
        assert "DataLoaderDispatcher" in raised["dispatcher"]
        assert "IterableDatasetShard" in raised["shard, worker"]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_one_process_may_pass_a_dataset_to_accelerate_as_it_is(
    store: Store, num_workers: int
) -> None:
    dataset = SoftTargetDataset(store, shuffle=True, batch_size=4)
    expected = list(dataset)
    plain = DataLoader(dataset, batch_size=None, num_workers=num_workers)
    loader = Accelerator(cpu=True).prepare(plain)
    for own, found in zip(expected, loader, strict=True):
        assert found["window_id"] == own["window_id"]
        assert torch.equal(found.soft_targets().logprobs, own.soft_targets().logprobs)
    windows = SoftTargetDataset(store, shuffle=True)
    by_four = Accelerator(cpu=True).prepare(DataLoader(windows, batch_size=4, collate_fn=collate))
    found_ids = [one for batch in by_four for one in batch["window_id"]]
    assert found_ids == [window.window_id for window in windows]


def test_an_accelerator_that_would_begin_a_resumed_run_anew_is_refused(store: Store) -> None:
    dataset = SoftTargetDataset(store, shuffle=True, batch_size=4)
    dataset.set_epoch(1)
    state = dataset.state_dict(next(iter(dataset)))
    resumed = SoftTargetDataset(store, shuffle=True, batch_size=4)
    resumed.load_state_dict(state)
    # It counts epochs from 0, and tells the dataset.
    loader = Accelerator(cpu=True).prepare(DataLoader(resumed, batch_size=None))
    with pytest.raises(InputError, match="set_epoch: expected an epoch from 1 on"):
        next(iter(loader))


def test_a_reader_that_does_not_share_is_let_be(store: Store) -> None:
    check_reader(SoftTargetDataset(store))
