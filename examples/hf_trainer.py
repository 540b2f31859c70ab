"""Train with the Trainer of transformers: python examples/hf_trainer.py STORE DIRECTORY.

Run it again to go on.
In several processes: torchrun --nproc-per-node 2 examples/hf_trainer.py STORE DIRECTORY
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from students import small_student
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from softtargets import SoftTargetDataset, distillation_loss
from softtargets.train import DistillationTrainer

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
last = get_last_checkpoint(str(directory)) if directory.exists() else None
student = small_student(dataset.store)
if last is not None:
    student = student.from_pretrained(last)  # To evaluate it before; resuming would load it, too.
trainer = DistillationTrainer(
    student,
    args,
    train_dataset=dataset,
    eval_dataset=SoftTargetDataset(store, batch_size=4, **ranks),
    loss=partial(distillation_loss, temperature=2.0, ce_weight=0.1),
)
if "STOP_AFTER" in os.environ:
    args.max_steps = int(os.environ["STOP_AFTER"])
before = trainer.evaluate()["eval_loss"]
trainer.train(resume_from_checkpoint=last)
after = trainer.evaluate()["eval_loss"]
if trainer.is_world_process_zero():
    first = 0 if last is None else int(last.rsplit("-", 1)[1])
    print(f"step {first}, loss {before:.3f}; step {trainer.state.global_step}, loss {after:.3f}")
trainer.accelerator.end_training()
