"""A prepared run, trained: figures before and after, checkpoints, the student, and what is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import distributed

from softtargets.runs.model_push import push_student
from softtargets.runs.prepared import LABELS_NAME, PreparedRun
from softtargets.runs.run_card import ROWS, write_card
from softtargets.runs.run_directory import (
    AFTER,
    BASELINE,
    BEFORE,
    CHECKPOINTS,
    RunDirectory,
    last_checkpoint,
)
from softtargets.runs.run_plot import write_plot
from softtargets.runs.run_trainer import RunTrainer, TrainProgress
from softtargets.runs.student_model import Student
from softtargets.stream import SoftTargetDataset
from softtargets.stream.world import num_processes
from softtargets.train.recipe import Recipe

OnProgress = Callable[[str, TrainProgress], None]
"""Called with the name of the recipe that is trained, after every step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A trained student, and what it and its twin have learned."""

    directory: Path
    results: dict[str, dict[str, float]]
    """Figures of "before", "after" and, if there is a twin, "baseline"."""
    was_finished: bool
    """Whether it was there already."""

    @classmethod
    def of(cls, directory: RunDirectory, *, was_finished: bool) -> TrainResult:
        """Return the result that a directory has."""
        return cls(directory=directory.root, results=directory.results, was_finished=was_finished)


def train(run: PreparedRun, on_progress: OnProgress = lambda _name, _progress: None) -> TrainResult:
    """Train a student, or go on with it, and write its directory.

    In a training of several processes each of them calls this; the first writes.

    Raises:
        StoreError: the system refuses to write, or the store cannot be read.
    """
    directory = run.directory()
    _wait_for_all()
    rows = [BEFORE, AFTER] + ([BASELINE] if run.settings.baseline else [])
    was_finished = directory.is_finished(rows)
    if not was_finished:
        _train_rows(run, directory, rows, on_progress)
    if run.is_main and run.settings.push not in (None, directory.state.get("pushed")):
        push_student(directory.root, run.settings.push)
        directory.state["pushed"] = run.settings.push
        directory.write()
    _wait_for_all()
    return TrainResult.of(directory, was_finished=was_finished)


def _train_rows(
    run: PreparedRun, directory: RunDirectory, rows: Sequence[str], on_progress: OnProgress
) -> None:
    """Train what of the rows is not known yet, and tell of them."""
    if run.is_main:
        directory.begin(run.decides, run.others)
    _wait_for_all()
    if AFTER not in directory.results:
        _train_student(run, directory, on_progress)
    if BASELINE in rows and BASELINE not in directory.results:
        _train_twin(run, directory, on_progress)
    if run.is_main:
        write_plot(directory, {AFTER: run.recipe_name, BASELINE: ROWS[BASELINE]})
        write_card(run, directory)
        directory.finish()


def _train_student(run: PreparedRun, directory: RunDirectory, on_progress: OnProgress) -> None:
    """Train the student, save it, and note its figures before and after."""
    has_cache = _has_cache(run.student)
    trainer = _trainer(run, directory, run.student, run.recipe, "", on_progress)
    if BEFORE not in directory.results:
        directory.results[BEFORE] = trainer.figures()
        if run.is_main:
            directory.write()
    _go_on(trainer, directory.root / CHECKPOINTS)
    figures = trainer.figures()
    _save(run, trainer.model, directory.root, has_cache)
    directory.results[AFTER] = figures
    if run.is_main:
        directory.write()
    _wait_for_all()


def _train_twin(run: PreparedRun, directory: RunDirectory, on_progress: OnProgress) -> None:
    """Train the same student on labels, save it, and note its figures."""
    recipe = run.task.recipes[LABELS_NAME].resolved(run.store.targets)
    twin = run.maker.make()
    has_cache = _has_cache(twin)
    trainer = _trainer(run, directory, twin, recipe, BASELINE, on_progress)
    _go_on(trainer, directory.root / BASELINE / CHECKPOINTS)
    figures = trainer.figures()
    _save(run, trainer.model, directory.root / BASELINE, has_cache)
    directory.results[BASELINE] = figures
    if run.is_main:
        directory.write()
    _wait_for_all()


def _trainer(
    run: PreparedRun,
    directory: RunDirectory,
    student: Student,
    recipe: Recipe,
    part: str,
    on_progress: OnProgress,
) -> RunTrainer:
    """Return what trains a student, with checkpoints and log in a part of the directory."""
    name = LABELS_NAME if part else run.recipe_name
    arguments = run.arguments(directory.root / part / CHECKPOINTS)
    dataset = SoftTargetDataset(
        run.store,
        shuffle=True,
        seed=run.settings.seed,
        rank=arguments.process_index,
        world_size=arguments.world_size,
        batch_size=run.schedule.batch_size,
    )
    return RunTrainer(
        student.model,
        arguments,
        train_dataset=dataset,
        # Read by `evaluation`; a Trainer that evaluates wants to know of one.
        eval_dataset=None if run.evaluation is None else dataset,
        objective=run.task.recipe_objective(recipe, run.store),
        evaluation=run.evaluation,
        on_progress=lambda progress: on_progress(name, progress),
        on_save=lambda history: directory.write_log(part, history),
    )


def _go_on(trainer: RunTrainer, checkpoints: Path) -> None:
    """Train from the last checkpoint on, or from the beginning."""
    last = last_checkpoint(checkpoints)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))


def _has_cache(student: Student) -> bool | None:
    """Return whether a student generates text with a cache; None if it has no such choice."""
    has_cache: bool | None = getattr(student.model.config, "use_cache", None)
    return has_cache


def _save(run: PreparedRun, model: Any, root: Path, has_cache: bool | None) -> None:
    """Write what `from_pretrained` loads, if this is the process that writes."""
    if not run.is_main:
        return
    if run.maker.lora is not None:
        model = model.merge_and_unload()
    if has_cache is not None:
        # The Trainer switched it off, which those who generate text need.
        model.config.use_cache = has_cache
    model.save_pretrained(root)
    run.student.tokenizer.save_pretrained(root)


def _wait_for_all() -> None:
    if num_processes() > 1:
        distributed.barrier()
