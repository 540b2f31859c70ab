"""What training asks of a family of models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch

from softtargets.errors import InputError
from softtargets.store.store import Store
from softtargets.stream.batch import Batch
from softtargets.targets import TargetSchema
from softtargets.train.figures import Total
from softtargets.train.objective import Objective
from softtargets.train.recipe import Recipe
from softtargets.train.recipe_objective import recipe_objective


class StudentTask(Protocol):
    """What a student reads of a batch, and what it is trained for.

    Which of its outputs a target belongs to follows from the targets' convention: that at the
    target's own position, or the only one of a window. `Batch.target_labels` has the labels there.

    Adapters need the two methods that are abstract. The rest is what `softtargets train` asks: a
    task that names no `recipes` is not trained by it.
    """

    recipes: ClassVar[Mapping[str, Recipe]] = {}
    """What a student may be trained for, by name. The first is the default. One is "labels", for
    the twin that `--baseline` trains."""

    @abstractmethod
    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return the arguments by which the family's model of transformers reads a batch."""

    @abstractmethod
    def objective(self) -> Objective:
        """Return what a student is trained for if nothing else is said."""

    def auto_class(self, targets: TargetSchema) -> str:
        """Return the class of transformers that loads a student, "AutoModelForMaskedLM" say."""
        raise untrained_task(self)

    def recipe_objective(self, recipe: Recipe, store: Store) -> Objective:
        """Return the objective of a recipe, of which no field is None but the tail, on a store.

        Raises:
            InputError: the store does not have what the recipe needs.
        """
        return recipe_objective(recipe, store)

    def config_fields(self, targets: TargetSchema) -> dict[str, Any]:
        """Return the fields of a student's configuration that follow from the store's targets."""
        return {}

    def check_student(
        self, student: torch.nn.Module, missing: Sequence[str], targets: TargetSchema
    ) -> None:
        """Check that a student that was loaded can learn such targets.

        Args:
            student: a model of the class `auto_class`.
            missing: the weights that were not in its files, and that start at random.
            targets: of the store.

        Raises:
            InputError: it cannot.
        """
        return

    def figures(self, logits: torch.Tensor, batch: Batch, temperature: float) -> dict[str, Total]:
        """Return how near a student is to the teacher on a batch, as sums that are added up.

        Args:
            logits: that the student returned for the batch.
            batch: what it read.
            temperature: of the store's grid.

        Returns:
            Totals by the names of `softtargets.train.figures.FIGURES`: the same names for every
            batch of a store, as many as the store tells.
        """
        raise untrained_task(self)


def untrained_task(task: StudentTask) -> InputError:
    """Return the error that says why `softtargets train` does not train for a task."""
    return InputError(
        f"task {type(task).__name__}",
        expected="one that softtargets train knows how to train",
        found="one without recipes",
        next_step="Train with an adapter, see docs/trainers.md; or give the task's student side "
        "what StudentTask lists.",
    )
