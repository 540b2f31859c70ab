"""A command in all the processes of torchrun that have a part of a teacher each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from softtargets.errors import InputError

if TYPE_CHECKING:
    from softtargets.capture import BuildConfig
    from softtargets.capture.teacher import Teacher
    from softtargets.engines import Engine

TENSOR_PARALLEL = click.option(
    "--tensor-parallel",
    type=int,
    metavar="N",
    help="Cut the teacher's matrices over N processes: torchrun --nproc-per-node N -m softtargets "
    "COMMAND ... --tensor-parallel N. The first of them writes and prints. Or over N devices, with "
    "--teacher vllm:DIR_OR_ID and without torchrun.",
)


@contextmanager
def all_ranks(teacher: Teacher | None) -> Iterator[bool]:
    """Yield whether this process is the one that works; if not, it has followed that one."""
    from softtargets.capture.teachers.tensor_parallel import TensorParallelTeacher

    if not isinstance(teacher, TensorParallelTeacher):
        yield True
    elif teacher.rank != 0:
        teacher.follow()
        yield False
    else:
        with teacher.leading():
            yield True


def num_ranks(teacher: Teacher) -> int:
    """Return over how many processes a teacher is cut."""
    from softtargets.capture.teachers.tensor_parallel import TensorParallelTeacher

    if not isinstance(teacher, TensorParallelTeacher):
        return 1
    return teacher.config.tensor_parallel or 1


def check_one_worker(config: BuildConfig, teacher: Teacher, engine: Engine | None = None) -> None:
    """Check that a teacher that is cut over processes is asked by one.

    Raises:
        InputError: other workers are asked for, of which each would need all ranks.
    """
    from softtargets.capture.teachers.tensor_parallel import TensorParallelTeacher

    if not isinstance(teacher, TensorParallelTeacher):
        return
    for name, expected, found in (
        ("--workers", "1", str(config.workers)),
        ("--engine", "local", "local" if engine is None else "another"),
    ):
        if found != expected:
            raise InputError(
                name,
                expected=f"{expected} beside --tensor-parallel, whose processes run one batch "
                "together",
                found=found,
                next_step="Omit it.",
            )
