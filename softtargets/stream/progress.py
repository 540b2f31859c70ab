"""Which epoch a dataset delivers, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import get_worker_info

from softtargets.errors import InputError
from softtargets.stream.cursor import Resume


class Progress:
    """The epoch of a dataset and the place in it, of which its worker processes know."""

    def __init__(self) -> None:
        self.place = 0
        """After what this object has delivered."""
        # Shared with worker processes: the epoch, where to resume, and whether they have begun.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._resume = Resume()
        self._in_workers = torch.zeros((), dtype=torch.bool).share_memory_()

    @property
    def epoch(self) -> int:
        """Return the epoch that the next iteration delivers."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration.

        Raises:
            InputError: it is before the one that was resumed and is not iterated yet.
        """
        self._resume.check_epoch(epoch)
        self._epoch.fill_(epoch)

    def resume(self, epoch: int, place: int) -> None:
        """Start the next iteration of an epoch at a place."""
        self.set_epoch(epoch)
        self.place = place
        self._resume.set(epoch, place, is_worker=get_worker_info() is not None)

    def begin(self, worker: int, num_workers: int) -> int:
        """Return where an iteration that begins in this process starts."""
        is_worker = get_worker_info() is not None
        if is_worker:
            self._in_workers.fill_(True)
        num_workers = num_workers if is_worker else 0
        self.place = self._resume.take(self.epoch, worker, num_workers=num_workers)
        return self.place

    def after(self, batch: Mapping[str, Any] | None) -> tuple[int, int]:
        """Return the epoch and the place after a batch, or after what this object has delivered.

        Raises:
            InputError: the batch does not know its place, or worker processes deliver, so that this
                object does not know it.
        """
        if batch is not None and "next_place" not in batch:
            raise InputError(
                "SoftTargetDataset.state_dict, after",
                expected="a batch of a dataset with batch_size, which knows its place",
                found="one that was made of windows",
                next_step="Pass batch_size to the dataset, and batch_size=None to the DataLoader.",
            )
        if batch is None and self._in_workers and get_worker_info() is None:
            raise InputError(
                "SoftTargetDataset.state_dict",
                expected="a dataset iterated in this process",
                found="one iterated in DataLoader workers",
                next_step="Use num_workers=0; or pass batch_size to the dataset and the last batch "
                "to state_dict(after=batch); or the state_dict of torchdata's StatefulDataLoader.",
            )
        if batch is None:
            return self.epoch, self.place
        return int(batch["epoch"]), int(batch["next_place"])
