"""Who else reads: the ranks of a data-parallel training, and what wraps a dataset in it.

A trainer that shares an IterableDataset among its ranks cannot know that this one does so itself:
it would drop whole batches, in silence.
"""

from __future__ import annotations

import os
import sys

from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from softtargets.errors import InputError
from softtargets.stream.order import Share

_NEXT_STEP = (
    "Pass rank and world_size of the data-parallel group; a process that is to read everything by "
    "itself says so by rank=0, world_size=1. docs/trainers.md has every trainer."
)


def num_processes() -> int:
    """Return how many processes torch.distributed connects; 1 without it."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    # A worker that was spawned knows its launcher only.
    return 1 if get_worker_info() is None else int(os.environ.get("WORLD_SIZE", "1"))


def check_world(world_size: int | None) -> None:
    """Check that the ranks among which windows are shared can be those of this training.

    There may be fewer than processes, where some of them hold parts of one student.

    Args:
        world_size: as the caller named it; None if they did not.

    Raises:
        InputError: they cannot.
    """
    found = num_processes()
    if found > 1 and (world_size is None or found % world_size):
        raise InputError(
            "SoftTargetDataset, world_size",
            expected=f"the number of ranks that share windows, in a training of {found} processes",
            found="none" if world_size is None else f"{world_size}, which does not divide it",
            next_step=_NEXT_STEP,
        )


def own_share(rank: int, world_size: int, size: int) -> Share:
    """Return which part of an epoch this process, or this worker of it, delivers."""
    info = get_worker_info()
    worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
    return Share(
        rank=rank, world_size=world_size, worker=worker, num_workers=num_workers, size=size
    )


def check_reader(dataset: IterableDataset[object]) -> None:
    """Check that nothing between a dataset and its reader shares windows among ranks again.

    accelerate does so, and with it the Trainer of transformers: by an IterableDatasetShard, which
    keeps every n-th run of what it reads, or a DataLoaderDispatcher, which reads on rank 0 only.

    Raises:
        InputError: something does.
    """
    for reader in _readers():
        own = getattr(reader, "dataset", None) is dataset
        # The dispatcher knows the number of ranks by accelerate's state only.
        state = getattr(reader, "state", None) if own else None
        shares = getattr(reader if state is None else state, "num_processes", 1) if own else 1
        if shares > 1:
            raise InputError(
                "SoftTargetDataset",
                expected="to be read as it is: it shares windows among ranks itself",
                found=f"{type(reader).__name__} of {type(reader).__module__}, which shares what it "
                f"reads among {shares} processes once more",
                next_step="Use softtargets.train.prepare_loader, or "
                "softtargets.train.DistillationTrainer; see docs/trainers.md.",
            )


def check_collator(dataset: IterableDataset[object], yields: str) -> None:
    """Check that no collator of transformers or TRL is to join what a dataset yields.

    They know dictionaries of lists only, and would fail far from here, or train on what is wrong.

    Args:
        dataset: what is read.
        yields: what it yields, in words.

    Raises:
        InputError: one is.
    """
    for reader in _readers():
        collator = getattr(reader, "collate_fn", None)
        # A Trainer wraps what it was given, to omit columns.
        collator = getattr(collator, "data_collator", collator)
        module = getattr(collator, "__module__", None) or ""
        is_foreign = module.split(".")[0] in ("transformers", "trl")
        if is_foreign and getattr(reader, "dataset", None) is dataset:
            raise collator_error(getattr(collator, "__name__", type(collator).__name__), yields)


def collator_error(collator: str, yields: str) -> InputError:
    """Return what is wrong where a collator that does not know them joins a dataset's items."""
    return InputError(
        "SoftTargetDataset",
        expected="softtargets.collate to join windows, and finished batches to be left as they are",
        found=f"{collator}, which is to join {yields}",
        next_step="With the Trainer of transformers, use DistillationTrainer of "
        "softtargets.train; or pass data_collator=collate and a dataset without "
        "batch_size. With a DataLoader, pass collate_fn=collate; or batch_size=None, if the "
        "dataset has one. See docs/trainers.md.",
    )


def _readers() -> list[object]:
    """Return what is known to read datasets just now."""
    info = get_worker_info()
    readers: list[object] = [] if info is None else [info.dataset]
    accelerate = sys.modules.get("accelerate.state")
    if accelerate is not None and accelerate.GradientState._shared_state:
        loader = accelerate.GradientState().active_dataloader
        readers += [loader, getattr(loader, "dataset", None)]
    return readers
