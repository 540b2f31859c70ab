"""Which layers' hidden states a build keeps: checked, and as parts of a schema."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from softtargets.capture.build_config import BuildConfig
from softtargets.capture.teacher import LayerShape, Teacher
from softtargets.errors import InputError
from softtargets.store.layer_file import describe_layers
from softtargets.targets import LAST_HIDDEN, DType, FeatureSchema, LayerWeights, TargetSchema

_DTYPES: dict[str, DType] = {one: one for one in ("bfloat16", "float16", "float32")}


def check_layers(config: BuildConfig, teacher: Teacher) -> None:
    """Check that the teacher has the layers that are named, and that options go together.

    Raises:
        InputError: it has not, or they do not.
        TeacherError: its layers are not known.
    """
    named = bool(config.layers or config.rerun_layers)
    keeps_last = config.hidden_states and not config.capture_task.keeps_head
    options = config.layer_rows, config.layer_values
    if not named and not keeps_last and options != ("tokens", "exact"):
        raise InputError(
            "--layer-rows, --layer-values",
            expected="layers that they are about",
            found="none",
            next_step="Name layers, as in --hidden-states 0,3,last, or omit them.",
        )
    if config.rerun_layers and config.layer_rows != "tokens":
        raise InputError(
            "--layer-rows",
            expected="tokens, for --rerun-layers runs layers on all of them",
            found=config.layer_rows,
            next_step="Omit it.",
        )
    if named:
        shape = teacher.layer_shape()
        _check_numbers("--hidden-states", config.layers, shape.num_layers, teacher)
        _check_numbers("--rerun-layers", config.rerun_layers, shape.num_layers - 1, teacher)


def _check_numbers(option: str, numbers: tuple[int, ...], most: int, teacher: Teacher) -> None:
    if list(numbers) != sorted(set(numbers)) or any(not 0 <= one <= most for one in numbers):
        raise InputError(
            option,
            expected=f"rising numbers from 0 to {most}, as {teacher.name} has layers",
            found=", ".join(map(str, numbers)),
            next_step="Layers are counted from 0; each number is the input of one.",
        )


def with_layers(
    targets: TargetSchema, config: BuildConfig, teacher: Teacher, weights: LayerWeights | None
) -> TargetSchema:
    """Return what targets are with the hidden states of layers, and which of these run again.

    Args:
        targets: of the task.
        config: of the build, which `check_layers` has checked.
        teacher: that it runs.
        weights: of the layers that are to run again, if there are any.
    """
    features = (*targets.features, *_features(config, teacher))
    if features == targets.features:
        return targets
    layers = None if weights is None else describe_layers(weights)
    return replace(targets, features=features, layers=layers)


def _features(config: BuildConfig, teacher: Teacher) -> Iterator[FeatureSchema]:
    numbers = sorted({*config.layers, *config.rerun_layers})
    keeps_last = config.hidden_states and not config.capture_task.keeps_head
    if not numbers and not keeps_last:
        return
    shape: LayerShape = teacher.layer_shape()
    values = config.layer_values
    own = _DTYPES.get(teacher.describe()["dtype"], "float32")
    for name in [LAST_HIDDEN] * keeps_last + [f"layer_{one}" for one in numbers]:
        yield FeatureSchema(
            name=name,
            width=shape.width,
            rows=config.layer_rows,
            dtype=own if values == "exact" else values,
        )
