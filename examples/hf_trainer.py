"""The Trainer of transformers: python examples/hf_trainer.py STORE DIRECTORY. Again to go on."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from students import small_student
from transformers import TrainingArguments

from softtargets import SoftTargetDataset, distillation_loss
from softtargets.train.hf_trainer import DistillationTrainer

store, directory = sys.argv[1], Path(sys.argv[2])
args = TrainingArguments(
    output_dir=str(directory),
    num_train_epochs=2,
    per_device_train_batch_size=4,
    per_device_eval_batch_size=4,
    gradient_accumulation_steps=2,
    save_steps=3,
    use_cpu=True,
    report_to=[],
    dataloader_pin_memory=False,
)
ranks = {"rank": args.process_index, "world_size": args.world_size}
dataset = SoftTargetDataset(store, shuffle=True, batch_size=4, **ranks)
trainer = DistillationTrainer(
    small_student(dataset.store),
    args,
    train_dataset=dataset,
    eval_dataset=SoftTargetDataset(store, batch_size=4, **ranks),
    loss=partial(distillation_loss, temperature=2.0, ce_weight=0.1),
)
if "STOP_AFTER" in os.environ:
    args.max_steps = int(os.environ["STOP_AFTER"])
trainer.train(resume_from_checkpoint=any(directory.glob("checkpoint-*")))
print(f"step {trainer.state.global_step}, loss {trainer.evaluate()['eval_loss']:.3f}")
