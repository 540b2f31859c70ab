"""How many windows a step has, how many steps there are, and what happens at which of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from softtargets.errors import InputError
from softtargets.runs.settings import TrainSettings

EPOCHS = 3
"""By default, as DistilBERT."""
GLOBAL_BATCH_SIZE = 32
_MOST_AT_A_TIME = 8
"""Windows of a forward pass by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The numbers of a training, all of them."""

    world_size: int
    batch_size: int
    """Windows of a forward pass on one process."""
    accumulated: int
    """Forward passes of an optimizer step on one process."""
    steps: int
    epochs: float
    warmup_steps: int
    evaluation_steps: int
    save_steps: int

    @property
    def global_batch_size(self) -> int:
        """Return the windows of an optimizer step."""
        return self.world_size * self.batch_size * self.accumulated

    @classmethod
    def of(cls, settings: TrainSettings, num_windows: int, world_size: int) -> Schedule:
        """Return what follows from the options for a store of so many windows.

        Raises:
            InputError: they do not go together.
        """
        batch_size, accumulated = _sizes(settings, world_size)
        global_size = batch_size * accumulated * world_size
        per_epoch = math.ceil(num_windows / global_size)
        steps = settings.steps
        if steps is None:
            epochs = EPOCHS if settings.epochs is None else settings.epochs
            steps = max(1, math.ceil(epochs * per_epoch))
        warmup = settings.warmup
        return cls(
            world_size=world_size,
            batch_size=batch_size,
            accumulated=accumulated,
            steps=steps,
            epochs=round(steps / per_epoch, 4),
            warmup_steps=int(warmup) if warmup >= 1 else math.ceil(warmup * steps),
            evaluation_steps=settings.evaluation_steps or max(1, steps // 5),
            save_steps=settings.save_steps or max(1, steps // 10),
        )


def _sizes(settings: TrainSettings, world_size: int) -> tuple[int, int]:
    """Return the windows of a forward pass, and the passes of a step on one process."""
    size, whole = settings.batch_size, settings.global_batch_size
    if whole is None:
        if size is not None:
            return size, 1
        whole = math.ceil(GLOBAL_BATCH_SIZE / world_size) * world_size
    own, left = divmod(whole, world_size)
    if not left and size is None:
        size = next(one for one in range(min(own, _MOST_AT_A_TIME), 0, -1) if own % one == 0)
    if left or size is None or own % size:
        raise InputError(
            "--global-batch-size",
            expected=f"a multiple of {_factors(size, world_size)}",
            found=f"{whole}",
            next_step="Change it, or --batch-size, or the number of processes.",
        )
    return size, own // size


def _factors(size: int | None, world_size: int) -> str:
    """Return what a global batch size must be a multiple of."""
    processes = f"{world_size} processes"
    return processes if size is None else f"--batch-size {size} on {processes}"


def check_ranges(settings: TrainSettings) -> None:
    """Check that every number of the options is one that can be.

    Raises:
        InputError: one is not.
    """
    both = settings.epochs is not None and settings.steps is not None
    for option, value, least in (
        ("--batch-size", settings.batch_size, 1),
        ("--global-batch-size", settings.global_batch_size, 1),
        ("--steps", settings.steps, 1),
        ("--eval-steps", settings.evaluation_steps, 1),
        ("--save-steps", settings.save_steps, 1),
        ("--keep", settings.keep, 1),
        ("--warmup", settings.warmup, 0),
    ):
        if value is not None and value < least:
            raise _out_of_range(option, f"{least} or more", f"{value}")
    for option, number in (("--epochs", settings.epochs), ("--lr", settings.learning_rate)):
        if number is not None and not (0 < number < math.inf):
            raise _out_of_range(option, "a positive number", f"{number}")
    if both:
        raise _out_of_range("--epochs and --steps", "one of them", "both")
    if not 0 <= settings.evaluation_share < 1:
        raise _out_of_range("--eval-share", "from 0 to below 1", f"{settings.evaluation_share:g}")


def _out_of_range(option: str, expected: str, found: str) -> InputError:
    return InputError(option, expected=expected, found=found, next_step="Correct the option.")
