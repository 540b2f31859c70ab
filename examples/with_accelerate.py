"""Train with accelerate: python examples/with_accelerate.py STORE DIRECTORY.

Run it again to go on.
In several processes: torchrun --nproc-per-node 2 examples/with_accelerate.py STORE DIRECTORY
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from students import small_student

from softtargets import SoftTargetDataset, distillation_loss, student_inputs
from softtargets.train import prepare_loader

store, directory = sys.argv[1], Path(sys.argv[2])
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
dataset = SoftTargetDataset(
    store,
    shuffle=True,
    batch_size=4,
    rank=accelerator.process_index,
    world_size=accelerator.num_processes,
)
student = small_student(dataset.store)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
model, optimizer = accelerator.prepare(student, optimizer)
loader = prepare_loader(accelerator, dataset)
if directory.exists():
    accelerator.load_state(str(directory))

num_steps, step_loss = 0, torch.zeros(())
for epoch in range(loader.epoch, 2):
    loader.set_epoch(epoch)
    for batch in loader:
        with accelerator.accumulate(model):
            logits = model(**student_inputs(batch)).logits
            loss = distillation_loss(logits, batch, 2.0, num_targets=batch["step_targets"])
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        # accelerate divides each loss by the number of accumulated batches.
        step_loss += loss.detach() / accelerator.gradient_accumulation_steps
        if accelerator.sync_gradients:
            mean, step_loss = accelerator.reduce(step_loss, "mean"), torch.zeros(())
        num_steps += accelerator.sync_gradients
        if accelerator.sync_gradients and num_steps % 3 == 0:
            accelerator.save_state(str(directory))
        if num_steps == int(os.environ.get("STOP_AFTER", "-1")):
            sys.exit("stopped")
accelerator.print(f"{num_steps} steps in this run, loss {mean.item():.3f}")
del model  # It holds the group, whose threads have to end before the process does.
accelerator.end_training()
