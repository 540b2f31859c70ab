"""Programs that tests run in several processes: `launch` starts one for each rank."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from softtargets import SoftTargetDataset
from tests.ranks import run_ranks
from tests.train.runs import TRAINERS, make_student, open_dataset, rank


def launch(program: str, *arguments: Any, num_processes: int, directory: Path) -> list[Any]:
    """Run a program and return what it returned on every rank."""
    directory.mkdir(parents=True, exist_ok=True)
    code, printed = run_ranks(
        run, program, arguments, directory, num_ranks=num_processes, log=directory / "printed"
    )
    assert code == 0, printed
    return [
        json.loads((directory / f"{program}-{rank}.json").read_text())
        for rank in range(num_processes)
    ]


def run(name: str, arguments: tuple[Any, ...], directory: Path) -> None:
    """Run a program on this rank, and write what it returned."""
    torch.set_num_threads(1)
    torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.2  # As for the tests themselves.
    result = PROGRAMS[name](*arguments)
    (directory / f"{name}-{rank()}.json").write_text(json.dumps(result))
    if distributed.is_initialized():
        # A process that ends while its group's threads run may be aborted.
        distributed.destroy_process_group()


def misuses(store: str) -> dict[str, str]:
    """Read a store in ways that would train on wrong data; return what was raised."""
    from accelerate import Accelerator, DataLoaderConfiguration
    from torch.utils.data import DataLoader
    from transformers import Trainer, TrainingArguments

    from softtargets import collate

    accelerator = Accelerator(cpu=True)
    shards = Accelerator(
        cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=False)
    )
    unnamed = SoftTargetDataset(store, batch_size=2)
    named = open_dataset(store, batch_size=2)
    windows = open_dataset(store, batch_size=None)

    def train(dataset: SoftTargetDataset, dispatch: bool | None) -> None:
        args = TrainingArguments(
            "/nonexistent", max_steps=1, save_strategy="no", report_to=[], use_cpu=True,
            per_device_train_batch_size=2, accelerator_config={"dispatch_batches": dispatch},
        )  # fmt: skip
        collator: Any = collate
        Trainer(make_student(), args, train_dataset=dataset, data_collator=collator).train()

    def read(loader: Any) -> None:
        next(iter(loader))

    by_two = partial(DataLoader, batch_size=2, collate_fn=collate)
    of_batches = partial(DataLoader, batch_size=1, collate_fn=lambda batches: batches[0])
    cases: dict[str, Callable[[], None]] = {
        "no rank": lambda: read(unnamed),
        "no rank, accelerate": lambda: read(
            accelerator.prepare(DataLoader(unnamed, batch_size=None))
        ),
        "no rank, worker": lambda: read(DataLoader(unnamed, batch_size=None, num_workers=1)),
        "wrong world": lambda: read(SoftTargetDataset(store, rank=0, world_size=3)),
        "dispatcher": lambda: read(accelerator.prepare(DataLoader(named, batch_size=None))),
        "dispatcher, windows": lambda: read(accelerator.prepare(by_two(windows))),
        "shard": lambda: read(shards.prepare(of_batches(named))),
        "shard, windows": lambda: read(shards.prepare(by_two(windows))),
        "shard, worker": lambda: read(shards.prepare(by_two(windows, num_workers=1))),
        "Trainer": lambda: train(windows, None),
        "Trainer, shard": lambda: train(windows, False),
    }
    raised = {}
    for name, misuse in cases.items():
        try:
            misuse()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test compares it
            raised[name] = f"{type(error).__name__}: {error}"
        else:
            raised[name] = "nothing"
    # Everything on one rank, said so: the others need not take part.
    alone = SoftTargetDataset(store, rank=0, world_size=1)
    raised["named, alone"] = f"{len(list(alone))} windows"
    return raised


def train(trainer: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Train several times in the same processes."""
    return [TRAINERS[trainer](**run) for run in runs]


PROGRAMS: dict[str, Callable[..., Any]] = {"misuses": misuses, "train": train}
