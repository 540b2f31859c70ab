"""Losses on sparse soft targets, and adapters to the trainers that minimise them.

An adapter is imported when it is first used, for it needs its trainer's library.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from softtargets.train.distillation_objective import DistillationObjective
from softtargets.train.divergences import (
    JSD,
    Divergence,
    DivergenceName,
    ForwardKL,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
)
from softtargets.train.floor import distillation_floor
from softtargets.train.full import OutputHead
from softtargets.train.fused import fused_distillation_loss
from softtargets.train.layer_objective import RelationObjective, TinyBERTObjective
from softtargets.train.loader import SoftTargetLoader
from softtargets.train.losses import distillation_loss
from softtargets.train.objective import Objective, StudentOutputs
from softtargets.train.sparse import Tail, choose_tail
from softtargets.train.student import student_inputs
from softtargets.train.student_loss import StudentWithObjective
from softtargets.train.student_task import StudentTask
from softtargets.train.weighted_objective import WeightedObjective

if TYPE_CHECKING:
    from softtargets.train.accelerate_loader import prepare_loader
    from softtargets.train.hf_trainer import DistillationTrainer
    from softtargets.train.lightning_module import DistillationModule, SoftTargetDataModule
    from softtargets.train.trl_trainer import DistillationSFTTrainer

__all__ = [
    "JSD",
    "DistillationModule",
    "DistillationObjective",
    "DistillationSFTTrainer",
    "DistillationTrainer",
    "Divergence",
    "DivergenceName",
    "ForwardKL",
    "Objective",
    "OutputHead",
    "RelationObjective",
    "ReverseKL",
    "SkewKL",
    "SkewReverseKL",
    "SoftTargetDataModule",
    "SoftTargetLoader",
    "StudentOutputs",
    "StudentTask",
    "StudentWithObjective",
    "Tail",
    "TinyBERTObjective",
    "WeightedObjective",
    "choose_tail",
    "distillation_floor",
    "distillation_loss",
    "fused_distillation_loss",
    "prepare_loader",
    "student_inputs",
]

_HOMES = {
    "DistillationModule": "lightning_module",
    "DistillationSFTTrainer": "trl_trainer",
    "DistillationTrainer": "hf_trainer",
    "SoftTargetDataModule": "lightning_module",
    "prepare_loader": "accelerate_loader",
}
"""Modules of the names that need a trainer's library."""
_RENAMED = {
    f"{__name__}.{old}": f"{__name__}.{new}"
    for old, new in (
        ("accelerate", "accelerate_loader"),
        ("lightning", "lightning_module"),
        ("trl", "trl_trainer"),
    )
}
"""Modules by the names that they had, which are those of libraries."""


class _RenamedFinder(MetaPathFinder, Loader):
    """Finds a module by the name that it had."""

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in _RENAMED else None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = import_module(_RENAMED[module.__name__])


sys.meta_path.append(_RenamedFinder())


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
