"""Losses on sparse soft targets."""

from softtargets.train.losses import distillation_loss, forward_kl

__all__ = ["distillation_loss", "forward_kl"]
