"""How long a CPU takes for a number format.

Many CPUs have no instructions for bfloat16 and float16. There a product of matrices takes several
times as long as in float32, and on others half as long.
"""

from __future__ import annotations

import logging
import time
from functools import cache

import torch
from torch import nn

from softtargets.targets import DType

_log = logging.getLogger(__name__)
_ROUNDS = 10
_ROWS, _WIDTH = 64, 512
_SLOW = 2.0
_FEW_PARAMETERS = 20_000_000
"""A model of fewer is quick in any format."""


@cache
def times_float32(dtype: DType) -> float:
    """Return how many times as long as in float32 a linear layer takes on this CPU."""
    layers = [
        nn.Linear(_WIDTH, _WIDTH, bias=False, dtype=one).requires_grad_(False)
        for one in (getattr(torch, dtype), torch.float32)
    ]
    rounds = [[_seconds(layer) for layer in layers] for _ in range(_ROUNDS)]
    own, float32 = (min(seconds[place] for seconds in rounds) for place in (0, 1))
    return own / float32


def warn_of_slow_format(name: str, model: nn.Module, dtype: DType, device: torch.device) -> None:
    """Log that a model on this CPU would be much quicker in float32, where it is so."""
    num_parameters = sum(one.numel() for one in model.parameters())
    if device.type != "cpu" or dtype == "float32" or num_parameters < _FEW_PARAMETERS:
        return
    times = times_float32(dtype)
    if times > _SLOW:
        _log.warning(
            "%s: this CPU takes %.1f times as long for %s as for float32. A build with --dtype "
            "float32 is quicker, and its weights take twice the memory.",
            name,
            times,
            dtype,
        )


def _seconds(layer: nn.Linear) -> float:
    inputs_ND = torch.ones(_ROWS, _WIDTH, dtype=layer.weight.dtype)
    started = time.perf_counter()
    layer(inputs_ND)
    return time.perf_counter() - started
