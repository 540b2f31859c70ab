"""Losses on sparse soft targets."""

from softtargets.train.divergences import (
    JSD,
    Divergence,
    ForwardKL,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
)
from softtargets.train.full import OutputHead
from softtargets.train.fused import fused_distillation_loss
from softtargets.train.losses import distillation_loss
from softtargets.train.sparse import Tail
from softtargets.train.student import student_inputs

__all__ = [
    "JSD",
    "Divergence",
    "ForwardKL",
    "OutputHead",
    "ReverseKL",
    "SkewKL",
    "SkewReverseKL",
    "Tail",
    "distillation_loss",
    "fused_distillation_loss",
    "student_inputs",
]
