"""Which teacher `--teacher` names: a model of transformers, or one of an engine, by its scheme.

The module of an engine is imported when it is asked for, as it may need an extra.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any

from softtargets.capture.teacher import Teacher
from softtargets.capture.teachers.causal import TransformersTeacher
from softtargets.capture.teachers.model_files import TeacherConfig, architecture_of
from softtargets.capture.teachers.tensor_parallel import TensorParallelTeacher
from softtargets.errors import InputError
from softtargets.task_registry import DEFAULT_TASK, FoundTask, find_task, task_for
from softtargets.urls import redacted

MakeTeacher = Callable[[TeacherConfig], Teacher]
_SERVER = "softtargets.capture.servers.served:ServerTeacher"
TEACHERS = {
    "gguf": "softtargets.capture.teachers.gguf_model:GgufTeacher",
    "llama": "softtargets.capture.teachers.llama_cpp_model:LlamaTeacher",
    "vllm": "softtargets.capture.vllm_engine.vllm_teacher:VllmTeacher",
    "http": _SERVER,
    "https": _SERVER,
}
"""The module and the class of the teachers of each scheme. They are causal language models."""
REGISTERED: dict[str, MakeTeacher] = {}
"""Teachers of your own."""


def register_teacher(scheme: str, make: MakeTeacher) -> None:
    """Let `--teacher SCHEME:...` name a teacher of your own; a later one takes its place."""
    REGISTERED[scheme] = make


def scheme_of(name: str) -> str | None:
    """Return the scheme of a teacher that an engine runs, or None of a model of transformers."""
    scheme, colon, _ = name.partition(":")
    return scheme if colon and (scheme in REGISTERED or scheme in TEACHERS) else None


def open_teacher(config: TeacherConfig) -> Teacher:
    """Return the causal language model that a configuration names; it is not loaded.

    Raises:
        TeacherError: there is no such model.
        InputError: an option is set that its engine has no use for.
    """
    scheme = scheme_of(config.name)
    if scheme is None:
        is_cut = config.tensor_parallel is not None
        return TensorParallelTeacher(config) if is_cut else TransformersTeacher(config)
    if scheme in REGISTERED:
        return REGISTERED[scheme](config)
    module, _, attribute = TEACHERS[scheme].partition(":")
    make: MakeTeacher = getattr(import_module(module), attribute)
    return make(config)


def options_of(
    described: Mapping[str, Any], engine_arg: Sequence[tuple[str, Any]] = ()
) -> dict[str, Any]:
    """Return the options of a `TeacherConfig` that run a teacher as a store's identity says.

    Args:
        described: what `Teacher.describe` returned.
        engine_arg: options of vLLM beside those.
    """
    given = {"engine_arg": tuple(engine_arg)} if engine_arg else {}
    engine = described.get("engine")
    if engine is None:
        names = ("dtype", "attention", "compile")
        return given | {name: described[name] for name in names if name in described}
    if engine.partition(" ")[0] != "vllm":
        # It has its own number format, and nothing to choose.
        return given
    together = {**described.get("engine_args", {}), **dict(engine_arg)}
    return {"dtype": described["dtype"], "engine_arg": tuple(together.items())}


def task_of_teacher(config: TeacherConfig, name: str | None = None) -> FoundTask:
    """Return the task of this name; without one, that which the model's architecture tells.

    Raises:
        TeacherError: there is no such model.
        InputError: there is no such task, or the teacher's engine runs none of it.
    """
    scheme = scheme_of(config.name)
    if scheme is None:
        return task_for(architecture_of(config)) if name is None else find_task(name)
    if name not in (None, DEFAULT_TASK):
        raise InputError(
            f"--teacher {redacted(config.name)}",
            expected=f"a model of the task {DEFAULT_TASK}, as {scheme}: has no other",
            found=f"--task {name}",
            next_step="Pass the directory of the model with --teacher.",
        )
    return find_task(DEFAULT_TASK)


def check_used(config: TeacherConfig, used: frozenset[str]) -> None:
    """Check that no option of a teacher is set that its engine has no use for.

    Args:
        config: of the teacher.
        used: fields of `TeacherConfig` that the engine looks at, beside `name`.

    Raises:
        InputError: one is set.
    """
    for one in fields(config):
        if one.name not in {"name", *used} and getattr(config, one.name) != one.default:
            raise InputError(
                f"--{one.name.replace('_', '-')}",
                expected=f"an option that {scheme_of(config.name)}: has a use for",
                found="one that would change nothing",
                next_step="Omit it.",
            )
