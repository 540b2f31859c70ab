"""Every adapter trains on one device, as on the CPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from softtargets import SoftTargetDataset, Store, distillation_loss
from softtargets.train import SoftTargetLoader
from softtargets.train.student import student_inputs
from tests.fakes import byte_tokenizer

pytestmark = pytest.mark.gpu
BATCH_SIZE = 4
Optimizer = partial(torch.optim.SGD, lr=0.5)


def make_student() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, use_cache=False,
        )
    )  # fmt: skip


def make_dataset(store: Store) -> SoftTargetDataset:
    return SoftTargetDataset(store, batch_size=BATCH_SIZE)


def train_plain(store: Store, device: str, directory: Path) -> torch.nn.Module:
    student = make_student()
    torch.nn.Module.to(student, device)
    optimizer = Optimizer(student.parameters())
    for batch in SoftTargetLoader(make_dataset(store), device=device):
        logits = student(**student_inputs(batch)).logits
        distillation_loss(logits, batch, num_targets=batch["step_targets"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return student


def train_accelerate(store: Store, device: str, directory: Path) -> torch.nn.Module:
    from accelerate import Accelerator

    from softtargets.train import prepare_loader

    accelerator = Accelerator(cpu=device == "cpu")
    student = make_student()
    model, optimizer = accelerator.prepare(student, Optimizer(student.parameters()))
    for batch in prepare_loader(accelerator, make_dataset(store)):
        logits = model(**student_inputs(batch)).logits
        loss = distillation_loss(logits, batch, num_targets=batch["step_targets"])
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return student


def trainer_options(device: str, directory: Path) -> dict[str, Any]:
    return {
        "output_dir": str(directory), "num_train_epochs": 1, "save_strategy": "no",
        "report_to": [], "use_cpu": device == "cpu", "max_grad_norm": 0, "disable_tqdm": True,
        "per_device_train_batch_size": BATCH_SIZE, "lr_scheduler_type": "constant",
        "dataloader_pin_memory": device != "cpu",
    }  # fmt: skip


def train_transformers(store: Store, device: str, directory: Path) -> torch.nn.Module:
    from transformers import TrainingArguments

    from softtargets.train import DistillationTrainer

    student = make_student()
    trainer = DistillationTrainer(
        student,
        TrainingArguments(**trainer_options(device, directory)),
        train_dataset=make_dataset(store),
        eval_dataset=None,
        optimizers=(Optimizer(student.parameters()), None),
    )
    trainer.train()
    return student


def train_trl(store: Store, device: str, directory: Path) -> torch.nn.Module:
    from trl.trainer.sft_config import SFTConfig

    from softtargets.train import DistillationSFTTrainer

    student = make_student()
    options = {
        **trainer_options(device, directory),
        "bf16": False,
        "activation_checkpointing": False,
    }
    trainer = DistillationSFTTrainer(
        student,
        SFTConfig(**options),
        train_dataset=make_dataset(store),
        processing_class=byte_tokenizer(),
        optimizers=(Optimizer(student.parameters()), None),
    )
    trainer.train()
    return student


def train_lightning(store: Store, device: str, directory: Path) -> torch.nn.Module:
    from lightning.pytorch import Trainer

    from softtargets.train import DistillationModule, SoftTargetDataModule

    module = DistillationModule(make_student(), Optimizer)
    trainer = Trainer(
        accelerator="cpu" if device == "cpu" else "gpu", devices=1, max_epochs=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, SoftTargetDataModule(store, batch_size=BATCH_SIZE))
    return module.student


TRAINERS: dict[str, tuple[tuple[str, ...], Callable[..., torch.nn.Module]]] = {
    "plain": ((), train_plain),
    "accelerate": (("accelerate",), train_accelerate),
    "transformers": (("accelerate",), train_transformers),
    "trl": (("accelerate", "datasets", "trl"), train_trl),
    "lightning": (("lightning",), train_lightning),
}


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.filterwarnings("default")  # Those of other people's libraries.
def test_a_student_learns_what_it_learns_on_the_cpu(
    device: str, store: Store, tmp_path: Path, name: str
) -> None:
    needed, train = TRAINERS[name]
    for one in needed:
        try:
            importlib.import_module(one)
        except ModuleNotFoundError:
            pytest.skip(f"{one} is not installed; pip install {one}")
    found = train(store, device, tmp_path)
    expected = train_plain(store, "cpu", tmp_path)
    before = make_student()
    for own, other, first in zip(
        *(one.parameters() for one in (found, expected, before)), strict=True
    ):
        moved = (other - first).norm()
        assert (own.detach().cpu() - other).norm() <= 0.01 * moved + 1e-6
