"""Train with Lightning: python examples/with_lightning.py STORE DIRECTORY.

Run it again to go on.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from students import small_student

from softtargets import Store, distillation_loss
from softtargets.train import DistillationModule, SoftTargetDataModule

store, directory = Store.open(sys.argv[1]), Path(sys.argv[2])
module = DistillationModule(
    small_student(store),
    partial(torch.optim.AdamW, lr=1e-3),
    loss=partial(distillation_loss, temperature=2.0),
)
data = SoftTargetDataModule(store, val_store=store, shuffle=True, global_batch_size=8)
trainer = Trainer(
    accelerator="cpu",
    max_epochs=2,
    max_steps=int(os.environ.get("STOP_AFTER", "-1")),
    logger=False,
    callbacks=[ModelCheckpoint(directory, save_last=True, every_n_train_steps=3)],
)
last = directory / "last.ckpt"
trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None)
print(f"step {trainer.global_step}, loss {trainer.callback_metrics['val_loss']:.3f}")
