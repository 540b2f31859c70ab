"""Train with a loop of your own: python examples/plain_torch.py STORE CHECKPOINT.

Run it again to go on.
In several processes: torchrun --nproc-per-node 2 examples/plain_torch.py STORE CHECKPOINT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from students import small_student
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from softtargets import SoftTargetDataset, distillation_loss, student_inputs
from softtargets.train import SoftTargetLoader

store, checkpoint = sys.argv[1], Path(sys.argv[2])
rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
if world_size > 1:
    distributed.init_process_group("gloo")

dataset = SoftTargetDataset(
    store, shuffle=True, seed=0, global_batch_size=8, rank=rank, world_size=world_size
)
loader = SoftTargetLoader(dataset)
student = small_student(dataset.store)
model = DistributedDataParallel(student) if world_size > 1 else student
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
num_steps = 0
if checkpoint.exists():
    saved = torch.load(checkpoint)
    student.load_state_dict(saved["student"])
    optimizer.load_state_dict(saved["optimizer"])
    loader.load_state_dict(saved["place"])
    num_steps = saved["num_steps"]

for epoch in range(loader.epoch, 2):
    loader.set_epoch(epoch)
    for batch in loader:
        logits = model(**student_inputs(batch)).logits
        loss = distillation_loss(logits, batch, 2.0, num_targets=batch["step_targets"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        num_steps += 1
        if num_steps % 3 == 0 and rank == 0:
            saved = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**saved, "place": loader.state_dict(), "num_steps": num_steps}, checkpoint)
        if num_steps == int(os.environ.get("STOP_AFTER", "-1")):
            sys.exit("stopped")
mean = loss.detach()  # Of this rank's targets, by step_targets; the mean over ranks is the step's.
if world_size > 1:
    distributed.all_reduce(mean)
    mean /= world_size
    del model  # It holds the group, whose threads have to end before the process does.
    distributed.destroy_process_group()
if rank == 0:
    print(f"step {num_steps}, loss {mean.item():.3f}")
