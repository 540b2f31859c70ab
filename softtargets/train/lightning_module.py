"""Lightning: a module that trains a student, and a datamodule that is resumed inside an epoch.

Lightning leaves an IterableDataset alone: it neither shares it among ranks, nor tells it the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from softtargets.errors import InputError
from softtargets.store.store import Store
from softtargets.stream.batch import Batch
from softtargets.stream.dataset import SoftTargetDataset
from softtargets.train.distillation_objective import choose_objective
from softtargets.train.loader import SoftTargetLoader
from softtargets.train.losses import Loss, distillation_loss
from softtargets.train.objective import Fused, Objective
from softtargets.train.student_loss import StudentLoss


class DistillationModule(LightningModule):
    """A student of transformers that learns from batches of a SoftTargetDataModule.

    Args:
        student: the model.
        optimizer: what makes an optimizer of its parameters, and the objective's.
        loss: see `DistillationObjective`, and so is `fused`.
        fused: see there.
        objective: what the student is trained for, instead of `loss` and `fused`.
    """

    def __init__(
        self,
        student: torch.nn.Module,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer],
        *,
        loss: Loss = distillation_loss,
        fused: Fused = "auto",
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = choose_objective(loss, fused, objective)
        self.objective.prepare(student)
        self._make_optimizer, self._student_loss = optimizer, StudentLoss(self.objective)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return self._make_optimizer(self.parameters())

    def training_step(self, batch: Batch) -> torch.Tensor:
        """Return the batch's part of the mean over the targets of an optimizer step."""
        return self._loss(batch, batch["step_targets"])

    def validation_step(self, batch: Batch) -> None:
        """Log the mean over all targets as `val_loss`."""
        loss = self._loss(batch, None)
        self.log("val_loss", loss, batch_size=batch["num_targets"], sync_dist=True)

    def _loss(self, batch: Batch, num_targets: float | torch.Tensor | None) -> torch.Tensor:
        return self._student_loss(self.student, self.student, batch, num_targets)


class SoftTargetDataModule(LightningDataModule):
    """The batches of a store for training, and perhaps those of another for validation.

    Args:
        store: a store, or its path.
        val_store: one to validate on, in the order of its corpus.
        loader_options: of torch's DataLoader, `num_workers` for example.
        options: of SoftTargetDataset, without `rank` and `world_size`, which are the Trainer's.
    """

    def __init__(
        self,
        store: Store | str | Path,
        *,
        val_store: Store | str | Path | None = None,
        loader_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._store, self._val_store = store, val_store
        self._options, self._loader_options = options, dict(loader_options or {})
        if val_store is not None:
            # Lightning validates wherever there is such a method, and warns if it gives nothing.
            self.val_dataloader = self._val_dataloader  # type: ignore[method-assign]

    def train_dataloader(self) -> SoftTargetLoader:
        """Return a loader whose place Lightning keeps in its checkpoints."""
        return _EpochLoader(self._trainer(), self._dataset(self._store), **self._loader_options)

    def _val_dataloader(self) -> SoftTargetLoader:
        assert self._val_store is not None
        dataset = self._dataset(self._val_store, shuffle=False, tail="pad")
        return SoftTargetLoader(dataset, **self._loader_options)

    def _trainer(self) -> Trainer:
        assert self.trainer is not None
        return self.trainer

    def _dataset(self, store: Store | str | Path, **changes: Any) -> SoftTargetDataset:
        trainer = self._trainer()
        ranks = {"rank": trainer.global_rank, "world_size": trainer.world_size}
        return SoftTargetDataset(store, **{**self._options, **changes, **ranks})


class _EpochLoader(SoftTargetLoader):
    """A loader that delivers the Trainer's epoch."""

    def __init__(self, trainer: Trainer, dataset: SoftTargetDataset, **options: Any) -> None:
        accumulated = trainer.accumulate_grad_batches
        super().__init__(dataset, num_accumulated=accumulated, loss_is_divided=True, **options)
        self._trainer = trainer

    def __iter__(self) -> Iterator[Batch]:
        # Run when the first batch is asked for: before, the Trainer does not know its epoch.
        self.set_epoch(self._trainer.current_epoch)
        self._check_progress()
        yield from super().__iter__()

    def _check_progress(self) -> None:
        """Check that the Trainer goes on where the state was taken."""
        done = self._trainer.fit_loop.epoch_loop.batch_progress.current.ready
        size = self._dataset.world_size * (self._dataset.batch_size or 1)
        place = 0
        if self._after is not None and self._after["epoch"] == self.epoch:
            place = self._after["next_place"]
        if place != done * size or done % self.num_accumulated:
            raise InputError(
                "ckpt_path",
                expected=f"to go on after {done} batches of epoch {self.epoch}, place "
                f"{done * size}, as Lightning counts, and after an optimizer step",
                found=f"place {place} in the checkpoint",
                next_step="Keep the global batch size and accumulate_grad_batches.",
            )
