"""How near a student is to its teacher on windows that it is not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import distributed

from softtargets.errors import IdentityError, StoreError
from softtargets.store import Store
from softtargets.stream import SoftTargetDataset, collate
from softtargets.stream.world import num_processes
from softtargets.train import StudentTask
from softtargets.train.loader import collective_device
from softtargets.train.recipe import stored_temperature
from softtargets.window import Window

_MOST_LOGITS = 1 << 26
"""Of a batch: 256 MB in float32."""
_MOST_WINDOWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The windows of a store that are held out, of which every process reads a share."""

    store: Store
    task: StudentTask
    rank: int = 0
    world_size: int = 1

    @property
    def temperature(self) -> float:
        """Return the temperature of the KL: 1, or the lowest that the store holds without it."""
        return stored_temperature(self.store.targets)

    @torch.no_grad()
    def measure(
        self, student: torch.nn.Module, device: torch.device, context: AbstractContextManager[Any]
    ) -> dict[str, float]:
        """Return the means of the task's figures over all targets of all processes.

        A figure is left out where it is known of no target, as accuracy without labels is.

        Args:
            student: a model of transformers on the device.
            device: where it is.
            context: in which it runs, autocast for example.

        Raises:
            StoreError: nothing of what is held out is trained on.
        """
        sums: dict[str, tuple[float, float]] = {}
        num_targets = 0.0
        is_training = student.training
        student.eval()
        with context:
            for windows in self._batches():
                batch = collate(windows).to(device)
                logits = student(**self.task.inputs(batch)).logits
                for name, one in self.task.figures(logits, batch, self.temperature).items():
                    total, number = sums.get(name, (0.0, 0.0))
                    sums[name] = total + float(one.sum), number + float(one.number)
                num_targets += batch["num_targets"]
        student.train(is_training)
        *over_all, num_targets = _over_all([*chain(*sums.values()), num_targets])
        if not num_targets:
            raise StoreError(
                str(self.store.location),
                expected="targets to evaluate on",
                found="none in what is held out",
                next_step="Pass another --eval or a larger --eval-share.",
            )
        pairs = zip(sums, over_all[::2], over_all[1::2], strict=True)
        return {name: total / number for name, total, number in pairs if number}

    def _batches(self) -> Iterator[list[Window]]:
        """Yield windows whose logits take so much memory at most; a long window comes alone."""
        schema = self.store.targets
        width = schema.num_classes or schema.vocab_size
        own: list[Window] = []
        longest = 0
        for window in SoftTargetDataset(self.store, rank=self.rank, world_size=self.world_size):
            length = max(longest, len(window.input_ids_L))
            rows = len(own) + 1
            if own and (rows > _MOST_WINDOWS or rows * length * width > _MOST_LOGITS):
                yield own
                own, length = [], len(window.input_ids_L)
            own.append(window)
            longest = length
        if own:
            yield own


def check_evaluation(store: Store, other: Store) -> None:
    """Check that a student of one store can be judged on another.

    Raises:
        IdentityError: its teacher or its tokenizer is another.
    """
    for field, own, found in (
        ("teacher", *(one.manifest.identity.get("teacher") for one in (store, other))),
        ("tokenizer", *(one.manifest.identity.get("tokenizer") for one in (store, other))),
        ("convention", store.targets.convention.name, other.targets.convention.name),
    ):
        if own != found:
            raise IdentityError(
                f"--eval {other.location}, {field}",
                expected=f"that of {store.location}",
                found="another",
                next_step="Build the store to evaluate on with the same teacher.",
            )


def _over_all(numbers: list[float]) -> list[float]:
    """Return the sums of numbers over all processes, which call this together."""
    if num_processes() == 1:
        return numbers
    device = collective_device(distributed.get_backend_config())
    total = torch.tensor(numbers, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return [float(one) for one in total.tolist()]
