"""Train with the SFTTrainer of TRL: python examples/trl_sft.py STORE DIRECTORY TOKENIZER.

Run it again to go on.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from students import small_student
from transformers import AutoTokenizer
from trl import SFTConfig

from softtargets import SoftTargetDataset, distillation_loss
from softtargets.train import DistillationSFTTrainer

store, directory, tokenizer = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
args = SFTConfig(
    output_dir=str(directory),
    num_train_epochs=2,
    per_device_train_batch_size=4,
    save_steps=3,
    use_cpu=True,
    report_to=[],
    dataloader_pin_memory=False,
)
processing_class = AutoTokenizer.from_pretrained(tokenizer)
dataset = SoftTargetDataset(
    store,
    shuffle=True,
    batch_size=4,
    tokenizer=processing_class,
    rank=args.process_index,
    world_size=args.world_size,
)
trainer = DistillationSFTTrainer(
    small_student(dataset.store),
    args,
    train_dataset=dataset,
    processing_class=processing_class,
    loss=partial(distillation_loss, temperature=2.0),
)
if "STOP_AFTER" in os.environ:
    args.max_steps = int(os.environ["STOP_AFTER"])
trainer.train(resume_from_checkpoint=any(directory.glob("checkpoint-*")))
print(f"step {trainer.state.global_step}")
