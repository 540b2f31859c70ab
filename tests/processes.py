"""Processes that are forked from a server which has imported torch and the trainers.

One stops where a test wants it, so that no test hopes to be quicker than another.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.forkserver import _forkserver
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

from softtargets.task_registry import TASKS

CONTEXT = multiprocessing.get_context("forkserver")
"""New processes that inherit nothing, as spawned ones, but have torch and the trainers imported."""
CONTEXT.set_forkserver_preload(
    [
        "tests.fakes",
        "tests.train.runs",
        "softtargets.cli.build_command",
        "softtargets.generation.generating",
        "softtargets.runs.training",
        *(module.partition(":")[0] for module in TASKS.values()),
        "matplotlib.backends.backend_agg",
        "transformers.models.bert.modeling_bert",
        "transformers.models.gemma.tokenization_gemma",
        "transformers.models.gemma3.modeling_gemma3",
        "transformers.models.llama.modeling_llama",
        "transformers.trainer",
        "trl.trainer.sft_trainer",
        "tests.frozen",
    ]
)

_SERVER: Any = _forkserver


def server_address() -> str:
    """Return the address of the server, which is started if it does not run."""
    _SERVER.ensure_running()
    address: str = _SERVER._forkserver_address
    return address


def use_server(address: str) -> None:
    """Have processes that this one starts forked from another's server.

    Else this one would start a server of its own, which imports torch once more.
    """
    _SERVER._forkserver_address = address
    if _SERVER._forkserver_alive_fd is None:  # The server did not fork this process.
        # New processes are handed what keeps the server alive. Whoever started it does.
        _SERVER._forkserver_alive_fd = os.open(os.devnull, os.O_RDONLY)
        # New processes put their sockets there, and it is removed when this process ends.
        get_temp_dir()
    _SERVER.ensure_running = lambda: None


Program = Callable[..., object]
"""What a process runs; processes import the module in which it stands."""


def run_into(
    log: Path, environment: Mapping[str, str], program: Program, *arguments: object
) -> None:
    """Run a program as the whole of this process; what it prints is added to a file.

    Processes that it starts are forked, as those of a program that somebody starts.
    """
    # Else each that reads with workers of a DataLoader would have a server of its own.
    multiprocessing.set_start_method(None, force=True)
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    program(*arguments)


class Gate:
    """Where a process waits the first time it comes by, until the test opens it."""

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection

    def __call__(self) -> None:
        """Tell the test that the gate is reached, and wait; once it is open, do nothing."""
        if self._connection is None:
            return
        self._connection.send_bytes(b"reached")
        try:
            self._connection.recv_bytes()
        except EOFError:  # The test has let go of its end.
            self._connection = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A process before its gate."""

    pid: int
    open_gate: Callable[[], None]


@contextmanager
def held(target: Callable[..., None], *arguments: Any) -> Iterator[Held]:
    """Run `target(*arguments, gate)` in a new process; yield when it has reached its gate.

    Afterwards the gate is open, and the process has ended well.

    Raises:
        EOFError: it ended before it reached its gate.
    """
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=target, args=(*arguments, Gate(there)))
    process.start()
    there.close()
    try:
        here.recv_bytes()
        assert process.pid is not None
        yield Held(pid=process.pid, open_gate=here.close)
    finally:
        here.close()
        process.join()
    assert process.exitcode == 0


@contextmanager
def none_left() -> Iterator[None]:
    """Check that no child of this process is left that was not there before."""
    before = multiprocessing.active_children()
    yield
    left = [one for one in multiprocessing.active_children() if one not in before]
    assert not left, left


def wait_until_gone(pid: int) -> None:
    """Wait for the end of a process that is about to end."""
    while is_there(pid):
        time.sleep(0.01)


def is_there(pid: int) -> bool:
    """Return whether a process runs; one that has ended may not have been waited for."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")
