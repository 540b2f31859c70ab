"""How much memory a student's logits of a batch take, and how much of it is too much.

A loss on logits makes them in float32, copies those that have a target, and needs as much again for
their gradient: some four times what is counted here.
"""

from __future__ import annotations

from softtargets.errors import LimitError
from softtargets.limits import Limit
from softtargets.stream.batch import Batch

_FLOAT32_BYTES = 4
LOGITS_LIMIT = Limit(
    variable="SOFTTARGETS_MAX_LOGITS_BYTES", default=4_000_000_000, unit="bytes of float32 logits"
)


def logits_bytes(batch: Batch, num_ids: int) -> int:
    """Return the size in float32 of all logits of a batch, B * L * V, or B * V of windows."""
    rows, length = batch["input_ids"].shape
    if "schema" in batch and batch.schema.convention.is_of_windows:
        length = 1
    return int(rows * length * num_ids * _FLOAT32_BYTES)


def check_logits_size(batch: Batch, num_ids: int) -> None:
    """Check that the logits of a batch are within the limit.

    Args:
        batch: what the student reads.
        num_ids: V, of the student.

    Raises:
        LimitError: they are not.
    """
    found, limit = logits_bytes(batch, num_ids), LOGITS_LIMIT.value
    if found > limit:
        rows, length = batch["input_ids"].shape
        raise LimitError(
            "student_logits",
            expected=f"at most {limit:,} {LOGITS_LIMIT.unit} ({LOGITS_LIMIT.variable} raises it)",
            found=f"{found:,}: {rows} rows of {length:,} tokens, a vocabulary of {num_ids:,}",
            next_step="Use fused_distillation_loss, which makes logits a chunk at a time; trainers "
            "of softtargets.train do so by fused=True. Or use a smaller batch, or set "
            f"{LOGITS_LIMIT.variable}={found} if there is memory for some four times that.",
        )
