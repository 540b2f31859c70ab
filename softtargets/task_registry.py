"""The tasks by name: which families of models there are.

A task stands above the rooms that ask it, so none of them imports it. They ask here, and the module
of a task is imported when it is asked for.
"""

from __future__ import annotations

from abc import abstractmethod
from importlib import import_module
from typing import Any, Protocol

from softtargets.errors import InputError
from softtargets.targets import TargetSchema

DEFAULT_TASK = "causal-lm"
TASKS = {
    DEFAULT_TASK: "softtargets.tasks.causal_lm:CausalLM",
    "classification": "softtargets.tasks.classification:Classification",
    "masked-lm": "softtargets.tasks.masked_lm:MaskedLM",
    "seq2seq": "softtargets.tasks.seq2seq:Seq2Seq",
}
"""The module and the class of each task."""


class FoundTask(Protocol):
    """A task, as far as it is known here; `softtargets.tasks.Task` says the rest."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Return what builds call it."""

    def fits(self, architecture: str) -> bool:
        """Return whether models of a class of transformers, such as GPT2LMHeadModel, are of it."""
        del architecture
        return False

    @abstractmethod
    def owns(self, schema: TargetSchema) -> bool:
        """Return whether stores of such targets are of this task."""

    @abstractmethod
    def capture(self) -> Any:
        """Return what the teacher's side asks, a `CaptureTask`, with no options set."""

    @abstractmethod
    def student(self) -> Any:
        """Return what the student's side asks, a `StudentTask`."""


REGISTERED: dict[str, FoundTask] = {}
"""Tasks of your own."""


def register_task(task: FoundTask) -> None:
    """Let stores be of a task of your own; a later one of the same name takes its place."""
    REGISTERED[task.name] = task


def find_task(name: str) -> FoundTask:
    """Return the task of this name.

    Raises:
        InputError: there is none.
    """
    if name in REGISTERED:
        return REGISTERED[name]
    if name not in TASKS:
        raise InputError(
            "task",
            expected=f"one of {', '.join([*TASKS, *REGISTERED])}",
            found=name,
            next_step="Name one of them, or register your own with register_task.",
        )
    module, _, attribute = TASKS[name].partition(":")
    task: FoundTask = getattr(import_module(module), attribute)()
    return task


def task_for(architecture: str | None) -> FoundTask:
    """Return the task of models of a class of transformers; your own come first.

    Where no task knows the class, it is the default one: its teacher checks the model.
    """
    for task in map(find_task, (*REGISTERED, *TASKS)):
        if architecture is not None and task.fits(architecture):
            return task
    return find_task(DEFAULT_TASK)


def task_of(schema: TargetSchema) -> FoundTask:
    """Return the task that a store of such targets is of; your own come first.

    Raises:
        InputError: it is of none that is known here.
    """
    names = [*REGISTERED, *TASKS]
    for task in map(find_task, names):
        if task.owns(schema):
            return task
    raise InputError(
        "targets",
        expected=f"those of a task: {', '.join(names)}",
        found=f"{schema.describe()}; {schema.convention.words}",
        next_step="Register the task that the store was built with, by register_task.",
    )
