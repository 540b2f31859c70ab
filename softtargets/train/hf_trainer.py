"""The Trainer of transformers: it reads a store's batches as they are, and trains for an objective.

To another subclass of Trainer this one is a mixin: `class Own(DistillationTrainer, OtherTrainer)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from softtargets.errors import InputError
from softtargets.stream.batch import Batch
from softtargets.stream.dataset import SoftTargetDataset
from softtargets.train.hf_objective import ObjectiveTrainer
from softtargets.train.hf_place import PlaceInState, SkippableDataset
from softtargets.train.loader import check_batches, check_rank, targets_of_step


class DistillationTrainer(ObjectiveTrainer):
    """A Trainer whose `train_dataset`, and `eval_dataset` if it is one, are SoftTargetDatasets.

    The loss is a mean over the targets: of an optimizer step over all accumulated batches and all
    ranks, of an evaluation over all its batches. Resuming goes on after the last step's batches.

    Args:
        arguments: of the Trainer.
        options: of the Trainer; `per_device_train_batch_size` must be the dataset's. `objective` is
            what the student is trained for. Without one, `loss` and `fused` are those of a
            `DistillationObjective`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._evaluated = torch.zeros(2)
        self._place = PlaceInState()
        self.add_callback(self._place)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the dataset's own batches."""
        if not isinstance(self.train_dataset, SoftTargetDataset):
            raise InputError(
                "DistillationTrainer, train_dataset",
                expected="a SoftTargetDataset",
                found=type(self.train_dataset).__name__,
                next_step="Pass one, or use Trainer.",
            )
        self._place.dataset = SkippableDataset(self.train_dataset)
        return self._make_loader(self._place.dataset, self._train_batch_size)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Return a loader of the dataset's own batches, or of anything else as a Trainer does."""
        chosen = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(eval_dataset, str) and isinstance(self.eval_dataset, dict):
            chosen = self.eval_dataset[eval_dataset]
        if not isinstance(chosen, SoftTargetDataset):
            return super().get_eval_dataloader(eval_dataset)
        return self._make_loader(SkippableDataset(chosen), self.args.eval_batch_size)

    def _make_loader(self, batches: SkippableDataset, batch_size: int) -> DataLoader[Any]:
        dataset, args = batches.dataset, self.args
        check_batches(dataset)
        check_rank(dataset, args.process_index, args.world_size, trainer="Trainer")
        if dataset.batch_size != batch_size:
            raise InputError(
                "SoftTargetDataset, batch_size",
                expected=f"{batch_size}, as in TrainingArguments",
                found=f"{dataset.batch_size}",
                next_step="Pass it as per_device_train_batch_size, or per_device_eval_batch_size.",
            )
        loader: DataLoader[Any] = DataLoader(
            batches,
            batch_size=None,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        # As for one process: the dataset has shared windows among ranks already.
        prepared: DataLoader[Any] = prepare_data_loader(
            loader, args.device, num_processes=1, put_on_device=True, dispatch_batches=False
        )
        return prepared

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Return the batches of an optimizer step, and their targets over all ranks, per rank."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, targets_of_step(sum(batch["num_targets"] for batch in batches), device)

    def _prepare_inputs(self, inputs: Any) -> Any:
        if isinstance(inputs, Batch):
            return inputs.to(self.args.device)
        return super()._prepare_inputs(inputs)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss, and remember what is trained on."""
        if model.training and isinstance(inputs, Batch):
            self._place.record(inputs)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def prediction_step(
        self,
        model: Any,
        inputs: Any,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Return loss, logits and labels, whatever the labels' names are."""
        if not isinstance(inputs, Batch):
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            found = self.compute_loss(model, inputs, return_outputs=not prediction_loss_only)
        loss = found if prediction_loss_only else found[0]
        number = inputs["num_targets"]
        self._evaluated += torch.stack([loss * number, torch.full_like(loss, number)])
        others = (None, None) if prediction_loss_only else (found[1].logits, inputs["labels"])
        return loss, *others

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate; the loss is the mean over all targets, not that of the batches' means."""
        self._evaluated = torch.zeros(2, device=self.args.device)
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        total, number = self.accelerator.reduce(self._evaluated).tolist()
        if number and output.metrics is not None:
            output.metrics[f"{metric_key_prefix}_loss"] = total / number
        return output
