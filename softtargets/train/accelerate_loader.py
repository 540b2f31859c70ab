"""accelerate: a loader that it does not share among its processes again.

`Accelerator.prepare` lets rank 0 read for all, and slices, or keeps every n-th batch of a rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator
from accelerate.data_loader import DataLoaderStateMixin
from accelerate.state import GradientState

from softtargets.stream.batch import Batch
from softtargets.stream.dataset import SoftTargetDataset
from softtargets.train.loader import SoftTargetLoader, check_rank


class AcceleratedLoader(SoftTargetLoader, DataLoaderStateMixin):  # type: ignore[misc]
    """A loader by which an accelerator knows the last batch of an epoch. See `prepare_loader`."""

    _drop_last = False

    def __init__(
        self, accelerator: Accelerator, dataset: SoftTargetDataset, **options: Any
    ) -> None:
        super().__init__(
            dataset,
            num_accumulated=accelerator.gradient_accumulation_steps,
            device=accelerator.device if accelerator.device_placement else None,
            loss_is_divided=True,
            **options,
        )
        self.gradient_state = GradientState()

    def __iter__(self) -> Iterator[Batch]:
        self.begin()
        try:
            for batch, is_last in self._marked():
                self.end_of_dataloader = is_last
                yield batch
        finally:
            self.end()


def prepare_loader(
    accelerator: Accelerator, dataset: SoftTargetDataset, **options: Any
) -> AcceleratedLoader:
    """Return a loader instead of what `accelerator.prepare` would make of one.

    It goes with `accelerator.accumulate`, and `accelerator.save_state` keeps its place, with the
    store's fingerprint: call that after an optimizer step, inside the loop.

    Args:
        accelerator: the trainer.
        dataset: with `batch_size`, of the accelerator's `process_index` and `num_processes`.
        options: of torch's DataLoader, `num_workers` for example.

    Raises:
        InputError: the dataset yields windows, or is not this rank's.
    """
    check_rank(dataset, accelerator.process_index, accelerator.num_processes, trainer="accelerate")
    loader = AcceleratedLoader(accelerator, dataset, **options)
    accelerator.register_for_checkpointing(loader)
    return loader
