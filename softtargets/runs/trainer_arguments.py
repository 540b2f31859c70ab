"""The TrainingArguments of a run: what the options say, and any other field by `--set`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from softtargets.errors import InputError
from softtargets.runs.precision import chosen_precision
from softtargets.runs.schedule import Schedule
from softtargets.runs.settings import TrainSettings, check_name

if TYPE_CHECKING:
    from transformers import TrainingArguments

_OPTIONS = {
    "output_dir": "--output",
    "per_device_train_batch_size": "--batch-size",
    "per_device_eval_batch_size": "--batch-size",
    "gradient_accumulation_steps": "--global-batch-size",
    "num_train_epochs": "--epochs",
    "max_steps": "--steps",
    "learning_rate": "--lr",
    "lr_scheduler_type": "--schedule",
    "warmup_steps": "--warmup",
    "bf16": "--dtype",
    "fp16": "--dtype",
    "gradient_checkpointing": "--gradient-checkpointing",
    "activation_checkpointing": "--gradient-checkpointing",
    "eval_strategy": "--eval-steps",
    "eval_steps": "--eval-steps",
    "save_strategy": "--save-steps",
    "save_steps": "--save-steps",
    "save_total_limit": "--keep",
    "report_to": "--report-to",
    "seed": "--seed",
    "resume_from_checkpoint": "--fresh",
    "push_to_hub": "--push",
}
"""Fields that options decide."""


def check_arguments_set(given: Mapping[str, Any]) -> None:
    """Check the names of fields that `--set` names.

    Raises:
        InputError: there is no such field, or an option decides it.
    """
    for name in given:
        check_name("--set", name, _known_fields())
        if name in _OPTIONS:
            raise InputError(
                "--set",
                expected=f"{name} by its option {_OPTIONS[name]}",
                found=f"{name}={given[name]}",
                next_step=f"Pass {_OPTIONS[name]}.",
            )


def process_arguments(output: Path) -> TrainingArguments:
    """Return arguments that know rank, world size and device of this process, and no more.

    The first of a process connects it with the others.
    """
    return _make({"output_dir": str(output), "report_to": [], **_device()})


def training_arguments(
    settings: TrainSettings,
    schedule: Schedule,
    *,
    output: Path,
    learning_rate: float,
    is_evaluated: bool,
    is_partial: bool = False,
) -> TrainingArguments:
    """Return the arguments of a run.

    Args:
        settings: what was asked for.
        schedule: what follows.
        output: where checkpoints go.
        learning_rate: the highest.
        is_evaluated: whether there is something to evaluate on.
        is_partial: whether some of the student's weights may have no part in the loss.

    Raises:
        InputError: transformers refuses a value.
    """
    precision = chosen_precision(settings.dtype)
    decided = {
        "output_dir": str(output),
        "learning_rate": learning_rate,
        "lr_scheduler_type": settings.schedule,
        "bf16": precision == "bfloat16",
        "fp16": precision == "float16",
        **({_checkpointing(): True} if settings.gradient_checkpointing else {}),
        "eval_strategy": "steps" if is_evaluated else "no",
        "save_total_limit": settings.keep,
        "report_to": list(settings.report_to),
        "seed": settings.seed,
    }
    defaults = _defaults(schedule, is_partial=is_partial)
    given = {**defaults, **_device(), **settings.arguments, **_steps(schedule), **decided}
    return _make(given)


def _defaults(schedule: Schedule, *, is_partial: bool) -> dict[str, Any]:
    return {
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": max(1, schedule.steps // 100),
        "logging_first_step": True,
        "disable_tqdm": True,
        "ddp_find_unused_parameters": is_partial,
    }


def _steps(schedule: Schedule) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": schedule.batch_size,
        "gradient_accumulation_steps": schedule.accumulated,
        "max_steps": schedule.steps,
        "warmup_steps": schedule.warmup_steps,
        "eval_steps": schedule.evaluation_steps,
        "save_strategy": "steps",
        "save_steps": schedule.save_steps,
    }


def _known_fields() -> set[str]:
    from transformers import TrainingArguments

    return {one.name for one in fields(TrainingArguments)}


def _checkpointing() -> str:
    """Return what this version of transformers calls gradient checkpointing."""
    name = "activation_checkpointing"
    return name if name in _known_fields() else "gradient_checkpointing"


def _device() -> dict[str, Any]:
    has_other = torch.cuda.is_available() or torch.backends.mps.is_available()
    return {"use_cpu": not has_other}


def _make(given: Mapping[str, Any]) -> TrainingArguments:
    from transformers import TrainingArguments

    try:
        arguments = TrainingArguments(**given)
        # Several devices of one process would split batches; torchrun gives each a process.
        vars(arguments)["_n_gpu"] = min(1, arguments.n_gpu)
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(
            "TrainingArguments",
            expected="values that transformers takes",
            found=str(error).splitlines()[0],
            next_step="Correct the option or --set.",
        ) from error
    return arguments
