"""A model spread over several devices, with what does not fit on the CPU or on disk.

The layers take turns: one device works at a time, and what it needs is brought to it.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from softtargets.capture.teachers.model_files import TeacherConfig, pick_device
from softtargets.errors import InputError, TeacherError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_device_map(config: TeacherConfig) -> None:
    """Check that a map of devices is one, and that nothing is asked for that excludes it.

    Raises:
        InputError: it is none, or something is.
    """
    if config.tensor_parallel is not None:
        raise InputError(
            "--tensor-parallel",
            expected="a causal language model of transformers",
            found=config.name,
            next_step="Omit it; --device-map auto spreads models of any task over devices.",
        )
    if config.device_map is None:
        if config.offload_folder is not None:
            raise InputError(
                "--offload-folder",
                expected="--device-map, which says what is kept there",
                found="none",
                next_step="Pass --device-map auto, or omit it.",
            )
        return
    parse_device_map(config.device_map)
    _check_beside(config)
    if find_spec("accelerate") is None:
        raise InputError(
            "--device-map",
            expected="the package accelerate, which spreads models over devices",
            found="it not installed",
            next_step="Run: pip install 'softtargets[devices]'",
        )


def _check_beside(config: TeacherConfig) -> None:
    """Check that nothing is asked for that a map of devices excludes."""
    for option, found in (
        ("--device", None if config.device == "auto" else config.device),
        ("--compile", "the option" if config.compile else None),
    ):
        if found is not None:
            raise InputError(
                option,
                expected="nothing of it beside --device-map, which places each layer by itself",
                found=found,
                next_step="Omit one of them.",
            )


def parse_device_map(text: str) -> str | dict[str, str | int]:
    """Return what transformers takes: auto, or devices by the names of modules.

    Raises:
        InputError: it is neither.
    """
    if text == "auto":
        return text
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(one, str | int) and one != "meta" for one in found.values())
    ):
        raise InputError(
            "--device-map",
            expected="auto, or a JSON object of modules with their devices",
            found=text,
            next_step='For example \'{"model": 0, "lm_head": "cpu"}\'; devices are numbers of '
            "CUDA devices, cpu and disk.",
        )
    for device in {one for one in found.values() if one != "disk"}:
        pick_device(device if isinstance(device, str) else f"cuda:{device}", "--device-map")
    return found


def check_modules(model: PreTrainedModel, config: TeacherConfig) -> None:
    """Check that what a map places is there; transformers says nothing of what is not.

    Raises:
        InputError: it has names that the model has not.
    """
    placed = {} if config.device_map is None else parse_device_map(config.device_map)
    if isinstance(placed, str):
        return
    known = {name for name, _ in (*model.named_modules(), *model.named_parameters())}
    unknown = sorted(placed.keys() - known)
    if unknown:
        raise InputError(
            "--device-map",
            expected=f"names of modules of {type(model).__name__}, such as "
            f"{', '.join(name for name, _ in model.named_children())}",
            found=", ".join(unknown[:3]),
            next_step="Correct them, or pass auto.",
        )


def check_placed(model: PreTrainedModel, where: str, what: str, next_step: str) -> None:
    """Check that all weights of a model are on devices, to be read.

    Raises:
        TeacherError: some are offloaded.
    """
    away = [name for name, weight in model.named_parameters() if weight.is_meta]
    if away:
        raise TeacherError(
            where,
            expected=f"weights that stay on their devices, for {what}",
            found=f"{len(away)} that are offloaded, {away[0]} among them",
            next_step=next_step,
        )


def device_options(config: TeacherConfig) -> dict[str, Any]:
    """Return what `from_pretrained` is told of devices."""
    if config.device_map is None:
        return {}
    options: dict[str, Any] = {"device_map": parse_device_map(config.device_map)}
    if config.offload_folder is not None:
        options["offload_folder"] = config.offload_folder
    return options
