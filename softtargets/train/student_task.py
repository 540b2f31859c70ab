"""What training asks of a family of models."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol

from softtargets.stream.batch import Batch
from softtargets.train.objective import Objective


class StudentTask(Protocol):
    """What a student reads of a batch, and what it is trained for.

    Which of its outputs a target belongs to follows from the targets' convention: that at the
    target's own position, or the only one of a window. `Batch.target_labels` has the labels there.
    """

    @abstractmethod
    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return the arguments by which the family's model of transformers reads a batch."""

    @abstractmethod
    def objective(self) -> Objective:
        """Return what a student is trained for if nothing else is said."""
