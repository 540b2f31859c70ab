"""What a student of transformers is given of a batch."""

from __future__ import annotations

from typing import Any

import torch

from softtargets.errors import InputError
from softtargets.stream.batch import Batch


def student_inputs(batch: Batch) -> dict[str, Any]:
    """Return the arguments by which a causal language model of transformers reads what was stored.

    Where documents share windows they are told apart by their positions, which transformers reads
    so if it is given no mask and no cache. A mask is not needed: padding is on the right.
    """
    if batch["num_segments"] == 1:
        return {name: batch[name] for name in ("input_ids", "attention_mask")}
    positions = batch["position_ids"].long()
    return {"input_ids": batch["input_ids"], "position_ids": positions, "use_cache": False}


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
    highest = int(batch["input_ids"].max())
    if highest >= number:
        raise InputError(
            "student",
            expected=f"embeddings of all ids of the batch, up to {highest}",
            found=f"{number} embeddings",
            next_step="Give the student the teacher's tokenizer and vocabulary size.",
        )
