"""Which family of models a teacher is of, and the options that one family alone has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from softtargets.errors import InputError
from softtargets.task_registry import TASKS, find_task, task_for

if TYPE_CHECKING:
    from softtargets.capture import CaptureTask, TeacherConfig

_TASK = "task"
_OF_ONE_FAMILY: tuple[click.Option, ...] = ()
"""Options by the names of the fields that the `CaptureTask` of a family has. None is not given."""

TASK_OPTIONS = (
    click.option(
        "--task",
        _TASK,
        type=click.Choice(sorted(TASKS)),
        help="Family that the teacher is of. By default its architecture tells.",
    ),
)


def parse_task(options: Mapping[str, Any], teacher: TeacherConfig) -> CaptureTask:
    """Return the task that is named, or that the teacher's architecture tells, with its options.

    Raises:
        InputError: an option is given that is of another task.
        TeacherError: there is no such model.
    """
    from softtargets.capture.teachers.model_files import architecture_of

    name = options[_TASK]
    task = task_for(architecture_of(teacher)) if name is None else find_task(name)
    capture: CaptureTask = task.capture()
    names = [one.name for one in _OF_ONE_FAMILY if one.name is not None]
    given = {one: options[one] for one in names if options[one] is not None}
    known: set[str] = {one.name for one in fields(capture)} if is_dataclass(capture) else set()
    for option in given.keys() - known:
        raise InputError(
            f"--{option.replace('_', '-')}",
            expected=f"an option of the task {task.name}",
            found="one of another task",
            next_step=f"Omit it, or name its task with --task ({', '.join(sorted(TASKS))}).",
        )
    return replace(capture, **given) if given else capture  # type: ignore[type-var]
