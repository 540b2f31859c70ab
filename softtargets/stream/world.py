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
                next_step="Use softtargets.train.accelerate.prepare_loader, or "
                "softtargets.train.hf_trainer.DistillationTrainer; see docs/trainers.md.",
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
