"""A run of which everything is resolved and checked, and of which nothing is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softtargets.errors import InputError
from softtargets.runs.evaluation import Evaluation, check_evaluation
from softtargets.runs.freed_memory import keep_freed_memory
from softtargets.runs.lora import Lora
from softtargets.runs.model_push import check_push
from softtargets.runs.precision import chosen_precision
from softtargets.runs.rehearsal import check_positions, rehearse
from softtargets.runs.run_directory import CHECKPOINTS, RunDirectory
from softtargets.runs.schedule import Schedule, check_ranges
from softtargets.runs.settings import TrainSettings
from softtargets.runs.student_model import Student, StudentMaker
from softtargets.runs.student_spec import StudentSpec
from softtargets.runs.teacher_files import find_teacher_files
from softtargets.runs.trainer_arguments import (
    check_arguments_set,
    process_arguments,
    training_arguments,
)
from softtargets.store import Store
from softtargets.task_registry import task_of
from softtargets.train import StudentTask
from softtargets.train.choices import check_choice
from softtargets.train.recipe import LayerRecipe, Recipe
from softtargets.train.student_task import untrained_task

if TYPE_CHECKING:
    from transformers import TrainingArguments

LABELS_NAME = "labels"
"""The recipe of the twin that `--baseline` trains."""
_SPLIT_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """What `prepare` found; `softtargets.runs.train` trains it."""

    settings: TrainSettings
    store: Store
    """What is trained on: without the documents that are held out."""
    evaluation: Evaluation | None
    task: StudentTask
    maker: StudentMaker
    student: Student
    recipe_name: str
    recipe: Recipe
    schedule: Schedule
    process: TrainingArguments
    """That know this process, and nothing of the training."""
    batch_seconds: float = 0.0
    """Of a forward and backward pass on one batch."""

    @property
    def is_main(self) -> bool:
        """Return whether this is the process that writes and speaks."""
        return bool(self.process.process_index == 0)

    @property
    def learning_rate(self) -> float:
        """Return the highest learning rate."""
        own = self.settings.learning_rate
        return self.student.learning_rate if own is None else own

    @property
    def seconds(self) -> float:
        """Return about how long the trainings take, the twin's too, without evaluations."""
        trainings = 2 if self.settings.baseline else 1
        passes = self.schedule.steps * self.schedule.accumulated
        return trainings * passes * self.batch_seconds

    @property
    def decides(self) -> dict[str, Any]:
        """Return what makes the weights, as JSON."""
        settings, lora = self.settings, self.maker.lora
        return {
            "store": self.store.fingerprint,
            "evaluation": None if self.evaluation is None else self.evaluation.store.fingerprint,
            "student": self.student.identity,
            "recipe": self.recipe_name,
            **self.recipe.to_dict(),
            "steps": self.schedule.steps,
            "global_batch_size": self.schedule.global_batch_size,
            "learning_rate": self.learning_rate,
            "schedule": settings.schedule,
            "warmup_steps": self.schedule.warmup_steps,
            "dtype": chosen_precision(settings.dtype),
            "lora": None if lora is None else lora.to_dict(),
            "seed": settings.seed,
            "set": dict(settings.arguments),
        }

    @property
    def others(self) -> dict[str, Any]:
        """Return every other argument as it was resolved, as JSON."""
        settings = self.settings
        evaluation = settings.evaluation
        return {
            **asdict(self.schedule),
            "student": settings.student,
            "teacher": settings.teacher,
            "tokenizer": settings.tokenizer,
            "device": self.process.device.type,
            "gradient_checkpointing": settings.gradient_checkpointing,
            "evaluation": None if evaluation is None else str(evaluation),
            "evaluation_share": settings.evaluation_share if evaluation is None else None,
            "keep": settings.keep,
            "report_to": list(settings.report_to),
            "push": settings.push,
            "baseline": settings.baseline,
        }

    def directory(self) -> RunDirectory:
        """Return the directory, with the run that is there if it is this one.

        Raises:
            InputError: another run is there.
            StoreError: something else is there.
        """
        return RunDirectory.open(self.settings.output, self.decides, fresh=self.settings.fresh)

    def arguments(self, output: Path) -> TrainingArguments:
        """Return the Trainer's arguments, with checkpoints in a directory.

        Raises:
            InputError: transformers refuses a value.
        """
        return training_arguments(
            self.settings,
            self.schedule,
            output=output,
            learning_rate=self.learning_rate,
            is_evaluated=self.evaluation is not None,
            is_partial=self.recipe.layers is not None,
        )

    def rehearsed(self) -> PreparedRun:
        """Return it with the seconds of a batch, which is run for it.

        Raises:
            InputError, TemperatureError, LimitError: student, recipe and store do not fit.
        """
        held = [] if self.evaluation is None else [self.evaluation.store]
        for read in (self.store, *held):
            check_positions(self.student.model, read)
        seconds = rehearse(
            self.student.model,
            self.task.recipe_objective(self.recipe, self.store),
            self.store,
            batch_size=self.schedule.batch_size,
            device=self.process.device,
            precision=chosen_precision(self.settings.dtype),
        )
        return replace(self, batch_seconds=seconds)


def prepare(settings: TrainSettings) -> PreparedRun:
    """Resolve and check a training; nothing is written.

    In a training of several processes each of them calls this.

    Raises:
        InputError, IdentityError, TeacherError, StoreError: something does not fit; the message
            says what.
    """
    check_trainer()
    check_ranges(settings)
    chosen_precision(settings.dtype)
    check_arguments_set(settings.arguments)
    if settings.push is not None:
        check_push(settings.push)
    whole = settings.store if isinstance(settings.store, Store) else Store.open(settings.store)
    task: StudentTask = task_of(whole.targets).student()
    if not task.recipes:
        raise untrained_task(task)
    process = process_arguments(settings.output / CHECKPOINTS)
    if process.device.type == "cpu":
        keep_freed_memory()
    store, evaluation = _held_out(settings, whole, task, process)
    recipe_name, recipe = _recipe(settings, task, whole)
    maker = _maker(settings, task, whole)
    run = PreparedRun(
        settings=settings,
        store=store,
        evaluation=evaluation,
        task=task,
        schedule=Schedule.of(settings, len(store), process.world_size),
        maker=maker,
        student=maker.make(),
        recipe_name=recipe_name,
        recipe=recipe,
        process=process,
    )
    run.directory()
    run.arguments(settings.output / CHECKPOINTS)
    return run.rehearsed()


def check_trainer() -> None:
    """Check that what a Trainer needs beside transformers is installed.

    Raises:
        InputError: it is not.
    """
    if find_spec("accelerate") is None:
        raise InputError(
            "softtargets train",
            expected="the package accelerate, which the Trainer of transformers needs",
            found="it not installed",
            next_step="Run: pip install 'softtargets[trainers]'",
        )


def _maker(settings: TrainSettings, task: StudentTask, store: Store) -> StudentMaker:
    return StudentMaker(
        spec=StudentSpec.parse(settings.student),
        task=task,
        store=store,
        teacher=find_teacher_files(store, settings.teacher),
        tokenizer=settings.tokenizer,
        lora=None if settings.lora is None else Lora.parse(settings.lora),
        seed=settings.seed,
    )


def _held_out(
    settings: TrainSettings, store: Store, task: StudentTask, process: TrainingArguments
) -> tuple[Store, Evaluation | None]:
    """Return what is trained on, and what is held out of it or stands elsewhere."""
    held: Store
    if settings.evaluation is not None:
        held = Store.open(settings.evaluation)
        check_evaluation(store, held)
    elif settings.evaluation_share:
        store, held = store.split(settings.evaluation_share, _SPLIT_SEED)
    else:
        return store, None
    ranks = {"rank": process.process_index, "world_size": process.world_size}
    return store, Evaluation(store=held, task=task, **ranks)


def _recipe(settings: TrainSettings, task: StudentTask, store: Store) -> tuple[str, Recipe]:
    known = list(task.recipes)
    name = known[0] if settings.recipe is None else settings.recipe
    check_choice("--recipe", name, known)
    if settings.baseline:
        check_choice("--baseline, the task's recipes", LABELS_NAME, known)
        # The twin's turn comes last: what the store lacks for it shall show now.
        task.recipe_objective(task.recipes[LABELS_NAME].resolved(store.targets), store)
    names = [one.name for kind in (Recipe, LayerRecipe) for one in fields(kind)]
    given = {one: getattr(settings, one) for one in names if one not in ("layers", "kind")}
    return name, task.recipes[name].resolved(store.targets, **given)
