"""What a student is given of a batch."""

from __future__ import annotations

from typing import Any

import torch

from softtargets.errors import InputError
from softtargets.stream.batch import Batch
from softtargets.task_registry import DEFAULT_TASK, find_task, task_of


def student_inputs(batch: Batch) -> dict[str, Any]:
    """Return the arguments by which a model of transformers reads a batch as the teacher read it.

    The model is one of the family that the batch's store is of. A batch of inputs alone, which says
    nothing of targets, is of the default one.

    Raises:
        InputError: that family is not known here, see `softtargets.tasks.register_task`.
    """
    task = task_of(batch.schema) if "schema" in batch else find_task(DEFAULT_TASK)
    inputs: dict[str, Any] = task.student().inputs(batch)
    return inputs


def check_embeddings(student: torch.nn.Module, batch: Batch) -> None:
    """Check that a student can read a batch, before it looks ids up that it lacks.

    On a GPU that would end every later use of the device, before a loss could say what is wrong.

    Raises:
        InputError: it has fewer embeddings than an id of the batch needs.
    """
    embeddings = getattr(student, "get_input_embeddings", lambda: None)()
    number = getattr(embeddings, "num_embeddings", None)
    if number is None or number >= batch["vocab_size"]:
        return
    read = [batch[name] for name in ("input_ids", "encoder_input_ids") if name in batch]
    highest = max(int(ids.max()) for ids in read)
    if highest >= number:
        raise InputError(
            "student",
            expected=f"embeddings of all ids of the batch, up to {highest}",
            found=f"{number} embeddings",
            next_step="Give the student the teacher's tokenizer and vocabulary size.",
        )
