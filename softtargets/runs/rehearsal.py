"""What is tried before anything is written: what does not fit shows, and how long a batch takes."""

from __future__ import annotations

import time

import torch

from softtargets.capture.teachers.positions import count_positions
from softtargets.errors import InputError
from softtargets.runs.precision import forward_context
from softtargets.store import Store
from softtargets.stream import SoftTargetDataset
from softtargets.train import Objective, StudentWithObjective

_END = 1 - 1e-9
"""As much of a training as can be done before its last step."""


def rehearse(
    student: torch.nn.Module,
    objective: Objective,
    store: Store,
    *,
    batch_size: int,
    device: torch.device,
    precision: str,
) -> float:
    """Return the seconds of a forward and backward pass on the first batch of a store.

    Two are run, of which the first warms up. The student's weights and the state of random numbers
    stay as they are.

    Raises:
        InputError, TemperatureError: student, objective and store do not go together.
        LimitError: the logits of a batch are too large.
    """
    batch = next(iter(SoftTargetDataset(store, rank=0, world_size=1, batch_size=batch_size)))
    batch = batch.to(device)
    trained = StudentWithObjective(student, objective).to(device)
    trained.train()
    devices = [device] if device.type == "cuda" else []
    seconds = 0.0
    with torch.random.fork_rng(devices=devices):
        # The end of the training first: an objective may have another loss there.
        for share in (_END, 0.0):
            objective.advance(share)
            _wait_for(device)
            started = time.monotonic()
            with forward_context(device, precision):
                loss = trained(batch)
            loss.backward()
            _wait_for(device)
            seconds = time.monotonic() - started
    trained.zero_grad(set_to_none=True)
    return seconds


def check_positions(student: torch.nn.Module, store: Store) -> None:
    """Check that a student has positions for the longest window of a store.

    The store is read only if its windowing allows longer windows than the student.

    Raises:
        InputError: it has fewer.
    """
    most = count_positions(student)
    windowing = store.manifest.identity.get("windowing", {})
    if most is None or windowing.get("sequence_length", most + 1) <= most:
        return
    for window in store:
        if len(window.input_ids_L) > most:
            raise InputError(
                f"--student, for window {window.window_id} of {store.location}",
                expected=f"positions for its {len(window.input_ids_L):,} tokens",
                found=f"{most:,}",
                next_step="Pass a student with more positions, or build the store with "
                f"--sequence-length {most}.",
            )


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
