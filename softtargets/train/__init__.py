"""Losses on sparse soft targets."""

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
from softtargets.train.losses import distillation_loss
from softtargets.train.sparse import Tail, choose_tail
from softtargets.train.student import student_inputs

__all__ = [
    "JSD",
    "Divergence",
    "DivergenceName",
    "ForwardKL",
    "OutputHead",
    "ReverseKL",
    "SkewKL",
    "SkewReverseKL",
    "Tail",
    "choose_tail",
    "distillation_floor",
    "distillation_loss",
    "fused_distillation_loss",
    "student_inputs",
]
