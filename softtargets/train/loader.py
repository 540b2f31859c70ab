"""Batches for a training loop, which know the targets of an optimizer step, and their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import distributed
from torch.utils.data import DataLoader

from softtargets.errors import InputError
from softtargets.stream.batch import Batch
from softtargets.stream.dataset import SoftTargetDataset
from softtargets.stream.world import num_processes


class SoftTargetLoader:
    """The batches of a dataset, for a loop that may stop after any of them and go on later.

    Each batch has `step_targets`, what `distillation_loss` takes as `num_targets`: with it the
    gradient of an optimizer step is that of one large batch, over all accumulated batches and all
    ranks, however their targets are distributed. So the batches of a step are fetched together.

    Its state is that after the batch that was yielded last, whatever was fetched ahead.

    Args:
        dataset: with `batch_size`.
        num_accumulated: batches whose gradients make one optimizer step; the last step of an epoch
            has what is left.
        device: where batches are moved to; None leaves them where they are.
        loss_is_divided: whether the trainer divides each loss by `num_accumulated`.
        options: of torch's DataLoader, `num_workers` for example.

    Raises:
        InputError: the dataset yields windows, or `num_accumulated` is not positive.
    """

    def __init__(
        self,
        dataset: SoftTargetDataset,
        *,
        num_accumulated: int = 1,
        device: torch.device | str | None = None,
        loss_is_divided: bool = False,
        **options: Any,
    ) -> None:
        check_batches(dataset)
        if num_accumulated < 1:
            raise InputError(
                "num_accumulated",
                expected="1 or more",
                found=f"{num_accumulated}",
                next_step="Pass the batches of one optimizer step.",
            )
        # Lightning warns of the length of an IterableDataset that it finds by the name dataset.
        self._dataset = dataset
        self.num_accumulated = num_accumulated
        self._device = device
        self._scale = num_accumulated if loss_is_divided else 1
        self._batches = DataLoader(dataset, batch_size=None, **options)
        self._after: dict[str, int] | None = None

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return len(self._dataset)

    @property
    def epoch(self) -> int:
        """Return the epoch that the next iteration delivers, or goes on with."""
        return self._dataset.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, see `SoftTargetDataset.set_epoch`."""
        self._dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch, _ in self._marked())

    def _marked(self) -> Iterator[tuple[Batch, bool]]:
        """Yield batches, and whether each is the last."""
        batches = iter(self._batches)
        step = list(islice(batches, self.num_accumulated))
        while step:
            following = list(islice(batches, 1))
            count = self._count(step)
            for batch in step:
                self._after = {name: batch[name] for name in ("epoch", "next_place")}
                batch["step_targets"] = count
                moved = batch if self._device is None else batch.to(self._device, non_blocking=True)
                yield moved, batch is step[-1] and not following
            step = following + list(islice(batches, self.num_accumulated - len(following)))

    def _count(self, step: list[Batch]) -> float | torch.Tensor:
        own = sum(int(batch["num_targets"]) for batch in step)
        return targets_of_step(own, self._device) / self._scale

    def state_dict(self) -> dict[str, Any]:
        """Return the place after the batch that was yielded last; it is the same on all ranks."""
        return self._dataset.state_dict(self._after)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the batch where `state` was taken; `epoch` is then the one to go on with.

        Raises:
            IdentityError: the state belongs to another store or order.
        """
        self._dataset.load_state_dict(state)
        last = len(self._dataset) * self._dataset.world_size * (self._dataset.batch_size or 1)
        if state["place"] >= last:
            # Nothing is left of it: a trainer would take an empty epoch for the end of the data.
            state = {**state, "epoch": state["epoch"] + 1, "place": 0}
            self._dataset.load_state_dict(state)
        self._after = {"epoch": state["epoch"], "next_place": state["place"]}


def check_batches(dataset: SoftTargetDataset) -> None:
    """Check that a dataset yields batches, which know their places.

    Raises:
        InputError: it yields windows.
    """
    if dataset.batch_size is None:
        raise InputError(
            "SoftTargetDataset, batch_size",
            expected="the size of a rank's batches, for this trainer to resume exactly",
            found="none: it yields windows",
            next_step="Pass batch_size or global_batch_size to the dataset.",
        )


def check_rank(dataset: SoftTargetDataset, rank: int, world_size: int, *, trainer: str) -> None:
    """Check that a dataset's rank is the trainer's.

    Raises:
        InputError: it is not.
    """
    if (dataset.rank, dataset.world_size) != (rank, world_size):
        raise InputError(
            "SoftTargetDataset, rank and world_size",
            expected=f"those of {trainer}: rank {rank} of {world_size}",
            found=f"rank {dataset.rank} of {dataset.world_size}",
            next_step=f"Pass rank={rank}, world_size={world_size} on this process.",
        )


def targets_of_step(
    own_targets: int, device: torch.device | str | None = None
) -> float | torch.Tensor:
    """Return the targets of an optimizer step over all ranks, divided by the number of ranks.

    All ranks must call it together. At least 1, so that a step without targets has a loss of 0.

    Args:
        own_targets: of this rank's batches.
        device: where it is wanted; None for the CPU, whatever device the collectives are of.
    """
    ranks = num_processes()
    if ranks == 1:
        return float(max(1, own_targets))
    config = distributed.get_backend_config()
    reducing = collective_device(config) if device is None else torch.device(device)
    total = torch.tensor(float(own_targets), device=reducing)
    distributed.all_reduce(total)
    return total.to("cpu" if device is None else device).clamp(min=1) / ranks


def collective_device(backends: str) -> torch.device:
    """Return a device whose tensors a process group reduces: NCCL takes none of the CPU.

    Args:
        backends: of the group by device type, "cpu:gloo,cuda:nccl" for example.
    """
    kinds = [pair.split(":")[0] for pair in backends.split(",")]
    if "cpu" in kinds:
        return torch.device("cpu")
    return torch.device(kinds[0], torch.get_device_module(kinds[0]).current_device())
