"""SFTTrainer of TRL: everything but its preparation of texts, which a store has done."""

from __future__ import annotations

from typing import Any

import datasets
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from softtargets.errors import InputError
from softtargets.stream.collate import collate
from softtargets.stream.dataset import SoftTargetDataset
from softtargets.train.hf_trainer import DistillationTrainer


class DistillationSFTTrainer(DistillationTrainer, SFTTrainer):  # type: ignore[misc]
    """An SFTTrainer on SoftTargetDatasets, with all that `DistillationTrainer` promises.

    Args:
        model: the student, or its name.
        args: without what SFTTrainer would do to texts.
        train_dataset: what is trained on.
        eval_dataset: what is evaluated.
        options: of SFTTrainer, `processing_class` and `peft_config` for example, and `objective`,
            `loss` and `fused` of `DistillationTrainer`.

    Raises:
        InputError: an argument asks for what windows of a store cannot have any more.
    """

    def __init__(
        self,
        model: Any,
        args: SFTConfig,
        *,
        train_dataset: SoftTargetDataset,
        eval_dataset: SoftTargetDataset | None = None,
        **options: Any,
    ) -> None:
        asked = [
            name
            for name in ("packing", "padding_free", "assistant_only_loss", "completion_only_loss")
            if getattr(args, name)
        ]
        if asked:
            raise InputError(
                "SFTConfig",
                expected="windows as they are stored, which have their packing and masks",
                found=", ".join(asked),
                next_step="Omit it; `softtargets build` has --window and --messages-field.",
            )
        args.dataset_kwargs = {"skip_prepare_dataset": True}
        # SFTTrainer insists on a dataset of texts; none of it is read after the first look.
        texts = datasets.Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})
        super().__init__(model, args, data_collator=collate, train_dataset=texts, **options)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
