"""SoftTargetDataset: a store as a stream of windows for any trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from softtargets.errors import IdentityError, InputError
from softtargets.store.store import Store
from softtargets.stream.order import epoch_blocks, is_mine
from softtargets.window import Window

BLOCK_ROW_GROUPS = 16
"""Row groups shuffled together and held in memory: some 40 MB at k = 64."""


class SoftTargetDataset(IterableDataset[Window]):
    """The windows of a store, every one exactly once an epoch over all ranks and workers.

    The order is a function of the store, `seed` and the epoch; ranks and DataLoader workers take
    turns in it, so ranks differ by at most one window. Call `set_epoch` before each epoch, as with
    torch's DistributedSampler; otherwise every epoch has the same order.

    `state_dict` is for a dataset that is iterated in its own process, as a DataLoader without
    workers does. Iterated in worker processes it raises, since its own place then says nothing.

    Args:
        store: a store, or its path.
        shuffle: random order; otherwise that of the corpus.
        seed: of the order.
        rank: which of the `world_size` readers this is.
        world_size: how many readers share the epoch.

    Raises:
        InputError: the rank is not below the world size.
        StoreError: the store cannot be opened.
    """

    def __init__(
        self,
        store: Store | str | Path,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise InputError(
                "SoftTargetDataset",
                expected="0 <= rank < world_size",
                found=f"rank {rank} of {world_size}",
                next_step="Pass torch.distributed's get_rank() and get_world_size().",
            )
        self.store = store if isinstance(store, Store) else Store.open(store)
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._delivered = 0
        self._resume_at = 0
        # Shared with worker processes: the epoch, and whether any of them has begun to iterate.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._in_workers = torch.zeros((), dtype=torch.bool).share_memory_()

    @property
    def fingerprint(self) -> str:
        """Return the store's fingerprint, to be kept in the student's checkpoint."""
        return self.store.fingerprint

    @property
    def epoch(self) -> int:
        """Return the epoch that the next iteration delivers."""
        return int(self._epoch)

    def __repr__(self) -> str:
        return (
            f"SoftTargetDataset({self.store!r}, shuffle={self.shuffle}, seed={self.seed}, "
            f"rank={self.rank}, world_size={self.world_size})"
        )

    def __len__(self) -> int:
        """Return how many windows this rank delivers in an epoch."""
        return len(range(self.rank, len(self.store), self.world_size))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, in worker processes too."""
        self._epoch.fill_(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where this dataset is, to be given to `load_state_dict`.

        Raises:
            InputError: the windows were delivered by worker processes, which have their own places.
        """
        if self._in_workers and get_worker_info() is None:
            raise InputError(
                "SoftTargetDataset.state_dict",
                expected="a dataset iterated in this process",
                found="one iterated in DataLoader workers",
                next_step="Use num_workers=0, or the state_dict of torchdata's StatefulDataLoader.",
            )
        return {"delivered": self._delivered, **self._order_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken: the next iteration starts there.

        Raises:
            IdentityError: the state belongs to another store, order or split over readers.
        """
        expected = self._order_state() | {"epoch": state.get("epoch")}
        for name, value in expected.items():
            if state.get(name) != value:
                raise IdentityError(
                    f"SoftTargetDataset.load_state_dict, {name}",
                    expected=f"{value!r}, as this dataset has",
                    found=f"{state.get(name)!r} in the state",
                    next_step="Make the dataset as it was made when the state was taken.",
                )
        self.set_epoch(int(state["epoch"]))
        self._delivered = self._resume_at = int(state["delivered"])

    def _order_state(self) -> dict[str, Any]:
        worker, num_workers = _worker()
        return {
            "fingerprint": self.fingerprint,
            "epoch": self.epoch,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "rank": self.rank,
            "world_size": self.world_size,
            "worker": worker,
            "num_workers": num_workers,
        }

    def __iter__(self) -> Iterator[Window]:
        worker, num_workers = _worker()
        if get_worker_info() is not None:
            self._in_workers.fill_(True)
        share, num_shares = self.rank + self.world_size * worker, self.world_size * num_workers
        first = share + num_shares * self._resume_at
        self._delivered, self._resume_at = self._resume_at, 0
        place = 0
        for block in epoch_blocks(
            self.store.row_groups,
            shuffle=self.shuffle,
            seed=self.seed,
            epoch=self.epoch,
            block_groups=BLOCK_ROW_GROUPS,
        ):
            if place + len(block.order) > first:
                windows = [
                    window
                    for row_group in block.row_groups
                    for window in self.store.read_row_group(row_group)
                ]
                for at, chosen in enumerate(block.order, start=place):
                    if at >= first and is_mine(at, share=share, num_shares=num_shares):
                        self._delivered += 1
                        yield windows[chosen]
            place += len(block.order)


def _worker() -> tuple[int, int]:
    """Return which of how many DataLoader workers this process is."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
