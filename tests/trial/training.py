"""Trainings of a small student on a mixture of conversations and texts, stopped and gone on with.

`whole` trains for `STEPS` optimizer steps of accumulated batches and keeps its weights after each
second one. `resumed` goes on where two steps were done, and exits with 1 if it comes to other
weights.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from trl.trainer.sft_config import SFTConfig

from softtargets import Batch, Mixture, SoftTargetDataset, distillation_loss
from softtargets.train import DistillationSFTTrainer, DistillationTrainer, SoftTargetLoader
from softtargets.train.fused import fused_distillation_loss
from softtargets.train.student import student_inputs

STEPS, STOP, ACCUMULATED = 3, 2, 2
LEARNING_RATE = 1e-2


def open_mixture(chats: Path, texts: Path, batch_size: int) -> Mixture:
    """Return three windows of conversations for each one of texts."""
    return Mixture([chats, texts], [3, 1], epoch_windows=STEPS * ACCUMULATED * batch_size)


def make_student(vocab_size: int) -> LlamaForCausalLM:
    """Return a student of two narrow layers, the same every time."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def loss_of(student: Any, batch: Batch) -> torch.Tensor:
    """Return the batch's part of a step's loss, without its logits."""
    hidden = student.model(**student_inputs(batch)).last_hidden_state
    weight = student.lm_head.weight
    return fused_distillation_loss(hidden, weight, batch, num_targets=batch["step_targets"])


def train_plain(directory: Path, is_resumed: bool, chats: Path, texts: Path) -> list[float]:
    """Train by a loop of one's own; return the loss of each step."""
    mixture = open_mixture(chats, texts, batch_size=2)
    dataset = SoftTargetDataset(mixture, shuffle=True, batch_size=2)
    loader = SoftTargetLoader(dataset, num_accumulated=ACCUMULATED)
    student = make_student(mixture.targets.vocab_size)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE)
    checkpoint, done = directory / "checkpoint.pt", 0
    if is_resumed:
        state = torch.load(checkpoint)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["place"])
        done = STOP
    losses, loss, kinds = [], 0.0, Counter[int]()
    owners = {one: at for at, store in enumerate(mixture.stores) for one in store.window_ids()}
    for number, batch in enumerate(loader, start=1):
        kinds[len({owners[one] for one in batch["window_id"] if one})] += 1
        part = loss_of(student, batch)
        part.backward()
        loss += float(part.detach())
        if number % ACCUMULATED == 0:
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss)
            loss = 0.0
            if done + len(losses) == STOP:
                state = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state | {"place": loader.state_dict()}, checkpoint)
    if not is_resumed and not kinds[2]:
        sys.exit(f"no batch held windows of both stores: {kinds}")
    keep_weights(student, directory, is_resumed)
    return losses


def train_by_trainer(
    name: str, directory: Path, is_resumed: bool, chats: Path, texts: Path, teacher: Path
) -> list[float]:
    """Train by the Trainer of transformers or TRL's; return the loss of each step."""
    mixture = open_mixture(chats, texts, batch_size=1)
    dataset = SoftTargetDataset(mixture, shuffle=True, batch_size=1)
    student = make_student(mixture.targets.vocab_size)
    options: dict[str, Any] = {
        "output_dir": str(directory),
        "max_steps": STEPS,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": ACCUMULATED,
        "learning_rate": LEARNING_RATE,
        "save_steps": STOP,
        "logging_steps": 1,
        "use_cpu": True,
        "report_to": [],
        "dataloader_pin_memory": False,
    }
    loss = partial(distillation_loss, temperature=1.0)
    trainer: Trainer
    if name == "trainer":
        trainer = DistillationTrainer(
            student, TrainingArguments(**options), train_dataset=dataset, loss=loss
        )
    else:
        trainer = DistillationSFTTrainer(
            student,
            SFTConfig(**options, gradient_checkpointing=False, bf16=False),
            train_dataset=dataset,
            processing_class=AutoTokenizer.from_pretrained(teacher),
            loss=loss,
        )
    if is_resumed:
        # As if the run had been ended after that step.
        shutil.rmtree(directory / f"checkpoint-{STEPS}")
    trainer.train(resume_from_checkpoint=is_resumed)
    keep_weights(student, directory, is_resumed)
    return [one["loss"] for one in trainer.state.log_history if "loss" in one]


def keep_weights(student: LlamaForCausalLM, directory: Path, is_resumed: bool) -> None:
    """Write the whole run's weights, or compare with them."""
    path = directory / "whole.safetensors"
    # Tied weights are one tensor, which is kept once.
    weights = {name: one.detach() for name, one in student.named_parameters()}
    if not is_resumed:
        save_file(weights, path)
        return
    for name, wanted in load_file(path).items():
        if not torch.equal(weights[name], wanted):
            sys.exit(f"the resumed run's {name} is not the whole run's")


def main(name: str, run: str, directory: Path, chats: Path, texts: Path, teacher: Path) -> None:
    directory.mkdir(exist_ok=True)
    is_resumed = run == "resumed"
    if name == "plain":
        losses = train_plain(directory, is_resumed, chats, texts)
    else:
        losses = train_by_trainer(name, directory, is_resumed, chats, texts, teacher)
    print("losses", *(f"{loss:.3f}" for loss in losses))
    # A resumed run has one step left.
    if not is_resumed and not losses[-1] < losses[0]:
        sys.exit("the loss does not fall")
