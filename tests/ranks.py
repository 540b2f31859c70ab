"""Ranks of one training: processes with the environment that torchrun gives, without its cost.

`torchrun` starts an interpreter for itself and one for each rank, and each imports torch,
transformers and a trainer. Here the ranks are forked from a server that has imported them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch._C._distributed_c10d import TCPStore

from tests.processes import CONTEXT, Program, run_into


def run_ranks(
    program: Program,
    *arguments: Any,
    num_ranks: int,
    log: Path,
    variables: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run a program in `num_ranks` processes; return the highest exit code and what they printed.

    Args:
        program: of a module, which the processes import.
        arguments: of the program.
        num_ranks: how many processes; a single one gets no variables of ranks.
        log: the file for what they print.
        variables: of their environment, beside those of this process.
    """
    # As the agent of torchrun does: the ranks meet here, at a port that nobody else can take.
    meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {**os.environ, **(variables or {}), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if num_ranks > 1:
        common |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(meeting.port),
            "TORCHELASTIC_RUN_ID": "tests",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(num_ranks),
            "LOCAL_WORLD_SIZE": str(num_ranks),
        }
    processes = []
    for rank in range(num_ranks):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if num_ranks > 1 else {}
        process = CONTEXT.Process(
            target=run_into, args=(log, {**common, **own}, program, *arguments)
        )
        process.start()
        processes.append(process)
    for process in processes:
        process.join()
    codes = [process.exitcode or 0 for process in processes]
    return max(map(abs, codes)), log.read_text()
