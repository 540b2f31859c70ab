"""The engine of one machine: this process, or several."""

from __future__ import annotations

from softtargets.engines.engine import Engine
from softtargets.engines.in_process import InProcess
from softtargets.engines.processes import Processes


def local_engine(num_workers: int) -> Engine:
    """Return what runs units here, in so many processes."""
    return InProcess() if num_workers == 1 else Processes(num_workers)
