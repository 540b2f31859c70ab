"""Trainings of a tiny student by real trainers, which stop after any step and are resumed.

Each run returns the window ids of every batch that was trained on here, and some of the weights.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from accelerate import Accelerator
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import Callback
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
    TrainingArguments,
)

from softtargets import Batch, SoftTargetDataset, distillation_loss
from softtargets.train import (
    DistillationModule,
    DistillationObjective,
    DistillationTrainer,
    SoftTargetDataModule,
    SoftTargetLoader,
    StudentWithObjective,
    prepare_loader,
)
from softtargets.train.student import student_inputs
from tests.fakes import byte_tokenizer

EPOCHS = 2
GLOBAL_BATCH_SIZE = 6
"""Windows of an optimizer step; not a divisor of the 28 of the tests' store."""


def make_student() -> LlamaForCausalLM:
    """Return a student of 300 tokens that every process makes alike.

    In float64: how its own sums are rounded depends on the CPU and on the size of a batch.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        use_cache=False,
    )
    return LlamaForCausalLM(config).double()


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def open_dataset(store: str, **options: Any) -> SoftTargetDataset:
    """Return a shuffled dataset of this rank, in blocks of two row groups."""
    defaults = {"shuffle": True, "seed": 3, "rank": rank(), "world_size": world_size()}
    return SoftTargetDataset(store, **{**defaults, "shuffle_groups": 2, **options})


class RecordingLoss:
    """The loss, which keeps the window ids of every batch that is trained on."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = []

    def __call__(
        self,
        student_logits: torch.Tensor,
        batch: Batch,
        *,
        num_targets: float | torch.Tensor | None,
    ) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.steps.append(list(batch["window_id"]))
        return distillation_loss(
            student_logits, batch, temperature=2.0, ce_weight=0.25, num_targets=num_targets
        )


LOSS = partial(distillation_loss, temperature=2.0, ce_weight=0.25)


def chosen_loss(is_fused: bool, objective: str | None) -> dict[str, Any]:
    """Return an adapter's arguments for the loss; one that records cannot be fused.

    An objective is a class by its module and name, "tests.train.test_objective:WithCosine".
    """
    if objective is not None:
        return {"objective": resolve_name(objective)(is_fused)}
    return {"loss": LOSS, "fused": True} if is_fused else {"loss": RecordingLoss()}


def report(loss: Any, *trained: torch.nn.Module) -> dict[str, Any]:
    """Return what was trained on, if the loss recorded it, and the sum of every weight."""
    weights = [float(one.detach().double().sum()) for own in trained for one in own.parameters()]
    return {"steps": getattr(loss, "steps", []), "weights": weights}


def optimizer_of(parameters: Any) -> torch.optim.Optimizer:
    """Plain descent: the weights are those of the summed gradients, in any number format."""
    return torch.optim.SGD(parameters, lr=0.5)


def train_plain(
    store: str,
    directory: str,
    *,
    stop: int | None = None,
    resume: bool = False,
    num_workers: int = 0,
    accumulated: int = 1,
) -> dict[str, Any]:
    """torch alone, and DistributedDataParallel where there are several processes."""
    if world_size() > 1 and not distributed.is_initialized():
        distributed.init_process_group("gloo")
    student = make_student()
    model = DistributedDataParallel(student) if world_size() > 1 else student
    optimizer, loss = optimizer_of(student.parameters()), RecordingLoss()
    dataset = open_dataset(store, global_batch_size=GLOBAL_BATCH_SIZE // accumulated)
    loader = SoftTargetLoader(dataset, num_accumulated=accumulated, num_workers=num_workers)
    path = Path(directory) / "plain.pt"
    if resume:
        checkpoint = torch.load(path)
        student.load_state_dict(checkpoint["student"])
        loader.load_state_dict(checkpoint["place"])
    num_steps = 0
    for epoch in range(loader.epoch, EPOCHS):
        loader.set_epoch(epoch)
        for number, batch in enumerate(loader, start=1):
            logits = model(**student_inputs(batch)).logits
            loss(logits, batch, num_targets=batch["step_targets"]).backward()
            if number % accumulated and batch["next_place"] < len(dataset.store):
                continue
            optimizer.step()
            optimizer.zero_grad()
            num_steps += 1
            if num_steps == stop:
                checkpoint = {"student": student.state_dict(), "place": loader.state_dict()}
                if rank() == 0:
                    torch.save(checkpoint, path)
                return report(loss, student)
    return report(loss, student)


def train_torchdata(
    store: str,
    directory: str,
    *,
    stop: int | None = None,
    resume: bool = False,
    num_workers: int = 0,
    accumulated: int = 1,
) -> dict[str, Any]:
    """A StatefulDataLoader, whose state is of this rank and this number of workers."""
    assert accumulated == 1
    student, loss = make_student(), RecordingLoss()
    optimizer = optimizer_of(student.parameters())
    dataset = open_dataset(store, batch_size=GLOBAL_BATCH_SIZE)
    loader: Any = StatefulDataLoader(dataset, batch_size=None, num_workers=num_workers)
    path, first_epoch, num_steps = Path(directory) / "torchdata.pt", 0, 0
    if resume:
        checkpoint = torch.load(path)
        student.load_state_dict(checkpoint["student"])
        loader.load_state_dict(checkpoint["loader"])
        first_epoch = checkpoint["epoch"]
    for epoch in range(first_epoch, EPOCHS):
        dataset.set_epoch(epoch)
        for batch in loader:
            logits = student(**student_inputs(batch)).logits
            loss(logits, batch, num_targets=None).backward()
            optimizer.step()
            optimizer.zero_grad()
            num_steps += 1
            if num_steps == stop:
                states = {"student": student.state_dict(), "loader": loader.state_dict()}
                torch.save({**states, "epoch": epoch}, path)
                return report(loss, student)
    return report(loss, student)


def train_accelerate(
    store: str,
    directory: str,
    *,
    stop: int | None = None,
    resume: bool = False,
    num_workers: int = 0,
    accumulated: int = 1,
    fused: bool = False,
    objective: str | None = None,
) -> dict[str, Any]:
    """accelerate, by its own accumulation and its own checkpoints."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulated)
    losses = chosen_loss(fused, objective)
    trained = StudentWithObjective(
        make_student(), losses.get("objective") or DistillationObjective(**losses)
    )
    model, optimizer = accelerator.prepare(trained, optimizer_of(trained.parameters()))
    dataset = open_dataset(store, global_batch_size=GLOBAL_BATCH_SIZE // accumulated)
    loader = prepare_loader(accelerator, dataset, num_workers=num_workers)
    path = f"{directory}/accelerate"
    if resume:
        accelerator.load_state(path)
    num_steps = 0
    for epoch in range(loader.epoch, EPOCHS):
        loader.set_epoch(epoch)
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(batch, batch["step_targets"]))
                optimizer.step()
                optimizer.zero_grad()
            num_steps += accelerator.sync_gradients
            if accelerator.sync_gradients and num_steps == stop:
                accelerator.save_state(path)
                return report(losses.get("loss"), trained)
    return report(losses.get("loss"), trained)


class StopAfter(TrainerCallback):
    """Saves and stops a Trainer of transformers."""

    def __init__(self, step: int | None) -> None:
        self._step, self._done = step, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._done += 1
        if self._done == self._step:
            control.should_save = control.should_training_stop = True


def train_hf(
    store: str,
    directory: str,
    *,
    stop: int | None = None,
    resume: bool = False,
    num_workers: int = 0,
    accumulated: int = 1,
    fused: bool = False,
    objective: str | None = None,
    trainer: Callable[..., DistillationTrainer] = DistillationTrainer,
    arguments: Callable[..., TrainingArguments] = TrainingArguments,
) -> dict[str, Any]:
    """The Trainer of transformers, by its own accumulation and its own checkpoints."""
    student, losses = make_student(), chosen_loss(fused, objective)
    size = GLOBAL_BATCH_SIZE // accumulated
    args = arguments(
        f"{directory}/hf", num_train_epochs=EPOCHS, save_strategy="no", report_to=[], use_cpu=True,
        per_device_train_batch_size=size // world_size(), gradient_accumulation_steps=accumulated,
        dataloader_num_workers=num_workers, max_grad_norm=0, disable_tqdm=True,
        lr_scheduler_type="constant", dataloader_pin_memory=False,
    )  # fmt: skip
    training = trainer(
        student,
        args,
        train_dataset=open_dataset(store, global_batch_size=size),
        callbacks=[StopAfter(stop)],
        optimizers=(optimizer_of(student.parameters()), None),
        **losses,
    )
    training.train(resume_from_checkpoint=resume)
    return report(losses.get("loss"), student, training.objective)


def train_trl(store: str, directory: str, **how: Any) -> dict[str, Any]:
    """SFTTrainer, which insists on a tokenizer."""
    with warnings.catch_warnings():
        # Of a module of torch that it imports.
        warnings.simplefilter("ignore", FutureWarning)
        from trl.trainer.sft_config import SFTConfig

        from softtargets.train import DistillationSFTTrainer
    trainer = partial(DistillationSFTTrainer, processing_class=byte_tokenizer())
    return train_hf(
        store,
        f"{directory}/trl",
        trainer=trainer,
        arguments=partial(SFTConfig, activation_checkpointing=False, bf16=False),
        **how,
    )


class LightningStop(Callback):
    """Saves and stops a Trainer of Lightning."""

    def __init__(self, path: str, step: int | None) -> None:
        self._path, self._step, self._first = path, step, 0

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        self._first = trainer.global_step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step - self._first == self._step and not trainer.should_stop:
            trainer.save_checkpoint(self._path)
            trainer.should_stop = True


def train_lightning(
    store: str,
    directory: str,
    *,
    stop: int | None = None,
    resume: bool = False,
    num_workers: int = 0,
    accumulated: int = 1,
    fused: bool = False,
    objective: str | None = None,
) -> dict[str, Any]:
    """Lightning, by its own accumulation and its own checkpoints."""
    losses, path = chosen_loss(fused, objective), f"{directory}/lightning.ckpt"
    module = DistillationModule(make_student(), optimizer_of, **losses)
    data = SoftTargetDataModule(
        store, shuffle=True, seed=3, shuffle_groups=2,
        global_batch_size=GLOBAL_BATCH_SIZE // accumulated,
        loader_options={"num_workers": num_workers},
    )  # fmt: skip
    trainer = LightningTrainer(
        accelerator="cpu", devices=world_size(), strategy="ddp" if world_size() > 1 else "auto",
        max_epochs=EPOCHS, accumulate_grad_batches=accumulated, logger=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        enable_checkpointing=False, callbacks=[LightningStop(path, stop)],
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=path if resume else None)
    return report(losses.get("loss"), module)


TRAINERS: dict[str, Callable[..., dict[str, Any]]] = {
    "plain": train_plain,
    "torchdata": train_torchdata,
    "accelerate": train_accelerate,
    "hf": train_hf,
    "trl": train_trl,
    "lightning": train_lightning,
}
