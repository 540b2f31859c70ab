"""Steps of the trial: each a process of its own, timed, with the most memory that it had.

Each is forked from a server which has imported torch and the trainers. What it takes to import them
is no part of its time, and their 0.5 GB are a part of its memory.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from tests.processes import CONTEXT, Program, run_into

MOST_BYTES = 6 * 10**9
"""Of memory that a step may take."""

Claim = Callable[[str], str | None]
"""Looks at what a step printed, and at what it made; returns what does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A program, and what is claimed of it beside that it succeeds."""

    name: str
    program: Program
    arguments: Sequence[object] = ()
    claim: Claim = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a step took, and what failed of it."""

    seconds: float
    peak_bytes: int
    failed: tuple[str, ...]


def run_step(step: Step, logs: Path) -> Outcome:
    """Run a step to its end; what it prints is kept in a file of its name."""
    log = logs / f"{step.name.replace(' ', '-')}.log"
    log.write_text("")
    here, there = CONTEXT.Pipe(duplex=False)
    environment = os.environ | {"COLUMNS": "200"}
    process = CONTEXT.Process(
        target=_run, args=(there, log, environment, step.program, *step.arguments)
    )
    started = time.monotonic()
    process.start()
    there.close()
    process.join()
    seconds, text = time.monotonic() - started, log.read_text()
    failed = []
    if process.exitcode != 0:
        failed.append(f"exit code {process.exitcode}: {text.strip()[-2000:]}")
    elif (problem := step.claim(text)) is not None:
        failed.append(f"{problem}: see {log}")
    try:
        peak = here.recv()
    except EOFError:  # It was killed.
        peak = 0
    if peak >= MOST_BYTES:
        failed.append(f"{peak / 1e9:.2f} GB of memory, {MOST_BYTES / 1e9:.0f} or more")
    return Outcome(seconds=seconds, peak_bytes=peak, failed=tuple(failed))


def _run(
    connection: Connection,
    log: Path,
    environment: dict[str, str],
    program: Program,
    *arguments: object,
) -> None:
    try:
        run_into(log, environment, program, *arguments)
    finally:
        connection.send(_peak_bytes())


def _peak_bytes() -> int:
    """Return the most memory of this process, or of the largest of those it waited for."""
    whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    peak = max(resource.getrusage(one).ru_maxrss for one in whose)
    return peak * (1 if sys.platform == "darwin" else 1024)
