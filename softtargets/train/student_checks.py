"""What several families check of a student before it is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from softtargets.errors import InputError
from softtargets.stream.batch import Batch
from softtargets.targets import TargetSchema


def check_weights(missing: Sequence[str], what: str) -> None:
    """Check that a student was loaded with all of its weights.

    Args:
        missing: the weights that were not in its files.
        what: kind of model that is needed, "a masked language model" for example.

    Raises:
        InputError: some are missing.
    """
    if missing:
        raise InputError(
            "--student",
            expected=f"weights of the whole of {what}, its output head too",
            found=f"none for {', '.join(missing[:3])}",
            next_step=f"Pass {what}, or a config.json for one from scratch.",
        )


def check_vocabulary(num_outputs: int, targets: TargetSchema) -> None:
    """Check that a student has an output for each of the teacher's.

    Raises:
        InputError: it has fewer.
    """
    if num_outputs < targets.vocab_size:
        raise InputError(
            "--student",
            expected=f"at least the teacher's {targets.vocab_size:,} outputs",
            found=f"{num_outputs:,}",
            next_step="Give the student the teacher's tokenizer, and in its configuration "
            f"vocab_size {targets.vocab_size}.",
        )


def check_unshared_rows(batch: Batch) -> None:
    """Check that each row of a batch is one document, for a student that reads in both directions.

    Raises:
        InputError: documents share a row, in which they would see each other.
    """
    if batch["num_segments"] > 1:
        raise InputError(
            "student_inputs",
            expected="a window of one document in each row",
            found=f"rows of up to {batch['num_segments']}, which a student that reads in both "
            "directions would mix",
            next_step="Leave batches as they are collated: omit repack.",
        )


@torch.no_grad()
def first_answer(student: torch.nn.Module, *others: str) -> torch.Tensor:
    """Return a student's logits of a single token, whatever their shape; it stays in its mode.

    Args:
        student: a model of transformers.
        others: arguments that a token is passed by beside `input_ids`.
    """
    is_training = student.training
    student.eval()
    ids_11 = torch.zeros((1, 1), dtype=torch.int64, device=next(student.parameters()).device)
    logits: torch.Tensor = student(**dict.fromkeys(("input_ids", *others), ids_11)).logits
    student.train(is_training)
    return logits
