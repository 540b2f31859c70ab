"""Compute a teacher's soft targets once, store them exactly, stream them to any student.

The names below are the public surface. They are imported when first used, so that a store can be
opened and checked without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softtargets.errors import SoftTargetsError
    from softtargets.store import Store, verify
    from softtargets.stream import (
        IGNORE_INDEX,
        Batch,
        BatchTargets,
        Mixture,
        SoftTargetDataset,
        collate,
        repack,
    )
    from softtargets.targets import SoftTargets
    from softtargets.train import distillation_loss, fused_distillation_loss, student_inputs
    from softtargets.window import Window

_HOMES = {
    "IGNORE_INDEX": "stream",
    "Batch": "stream",
    "BatchTargets": "stream",
    "Mixture": "stream",
    "SoftTargetDataset": "stream",
    "SoftTargets": "targets",
    "SoftTargetsError": "errors",
    "Store": "store",
    "Window": "window",
    "collate": "stream",
    "distillation_loss": "train",
    "fused_distillation_loss": "train",
    "repack": "stream",
    "student_inputs": "train",
    "verify": "store",
}

__all__ = [
    "IGNORE_INDEX",
    "Batch",
    "BatchTargets",
    "Mixture",
    "SoftTargetDataset",
    "SoftTargets",
    "SoftTargetsError",
    "Store",
    "Window",
    "collate",
    "distillation_loss",
    "fused_distillation_loss",
    "repack",
    "student_inputs",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
