"""Which family of models a teacher is of, and the options that one family alone has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from softtargets.cli.selection_options import SELECTION_NAMES
from softtargets.errors import InputError
from softtargets.task_registry import TASKS

if TYPE_CHECKING:
    from softtargets.capture import CaptureTask, TeacherConfig

_TASK = "task"
_OF_ONE_FAMILY: dict[str, Callable[[Any], Any]] = {
    "text_pair_field": click.option(
        "--text-pair-field",
        help="classification: field that has the second text of a pair.",
    ),
    "label_field": click.option(
        "--label-field",
        help="classification: field that has the label, by name or number, null where it is not "
        "known. Of tokens it is a list, with one for each word.",
    ),
    "mask_probability": click.option(
        "--mask-probability",
        type=float,
        help="masked-lm: share of the tokens that are masked.  [default: 0.15]",
    ),
    "maskings": click.option(
        "--maskings",
        type=int,
        help="masked-lm: how often each window is masked, each time otherwise.  [default: 4]",
    ),
    "mask_seed": click.option(
        "--mask-seed",
        type=int,
        help="masked-lm: seed of the masks.  [default: 0]",
    ),
    "whole_words": click.option(
        "--whole-words",
        is_flag=True,
        default=None,
        help="masked-lm: mask all tokens of a word, or none.",
    ),
    "token_weights": click.option(
        "--token-weights",
        is_flag=True,
        default=None,
        help="masked-lm: mask rare tokens more often, as DistilBERT does. This reads the "
        "corpus twice.",
    ),
    "hidden_rows": click.option(
        "--hidden-rows",
        type=click.Choice(["targets", "tokens"]),
        help="masked-lm: keep --hidden-states of masked tokens alone, or of all.  "
        "[default: targets]",
    ),
    "hidden_values": click.option(
        "--hidden-values",
        type=click.Choice(["exact", "int8"]),
        help="masked-lm: keep --hidden-states as they are, or in int8 without the output head.  "
        "[default: exact]",
    ),
    "target_field": click.option(
        "--target-field",
        help="seq2seq: field that has the target of a source.  [default: target]",
    ),
    "source_prefix": click.option(
        "--source-prefix",
        help="seq2seq: text before every source, as T5 wants it.",
    ),
    "source_language": click.option(
        "--source-language",
        help="seq2seq: language of the sources, as a tokenizer of several languages calls it.",
    ),
    "target_language": click.option(
        "--target-language",
        help="seq2seq: language of the targets, as a tokenizer of several languages calls it.",
    ),
}
"""Options by the names of the fields that the `CaptureTask` of a family has. None is not given."""

TASK_OPTIONS = (
    click.option(
        "--task",
        _TASK,
        type=click.Choice(sorted(TASKS)),
        help="Family that the teacher is of. By default its architecture tells.",
    ),
    *_OF_ONE_FAMILY.values(),
)


def parse_task(options: Mapping[str, Any], teacher: TeacherConfig) -> CaptureTask:
    """Return the task that is named, or that the teacher's architecture tells, with its options.

    Raises:
        InputError: an option is given that is of another task.
        TeacherError: there is no such model.
    """
    from softtargets.capture.teacher_registry import task_of_teacher

    task = task_of_teacher(teacher, options[_TASK])
    capture: CaptureTask = task.capture()
    given = {one: options[one] for one in _OF_ONE_FAMILY if options[one] is not None}
    known: set[str] = {one.name for one in fields(capture)} if is_dataclass(capture) else set()
    for option in given.keys() - known:
        raise InputError(
            f"--{option.replace('_', '-')}",
            expected=f"an option of the task {task.name}",
            found="one of another task",
            next_step=f"Omit it, or name its task with --task ({', '.join(sorted(TASKS))}).",
        )
    _refuse_unused(capture, task.name)
    return replace(capture, **given) if given else capture  # type: ignore[type-var]


def _refuse_unused(capture: CaptureTask, task: str) -> None:
    """Check that no option is given that means nothing to a task, be it at its default."""
    from softtargets.capture.identity import unused_option

    context = click.get_current_context()
    for one in context.command.params:
        name = one.name or ""
        field = "selection" if name in SELECTION_NAMES else name
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_given and field in capture.unused_options:
            raise unused_option(one.opts[0], f"the task {task}")
