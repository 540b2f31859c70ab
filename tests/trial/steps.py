"""Steps of the trial: each a process of its own, timed, with the most memory that it had."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 6 * 10**9
"""Of memory that a step may take."""

Claim = Callable[[str], str | None]
"""Looks at what a step printed, and at what it made; returns what does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A command, and what is claimed of it beside that it succeeds."""

    name: str
    arguments: Sequence[str | Path]
    """Of Python."""
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
    started = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *map(str, step.arguments)],
            env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        # Instead of process.wait: this knows the memory of this child and of those it waited for.
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds, text = time.monotonic() - started, log.read_text()
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    failed = []
    if process.returncode != 0:
        failed.append(f"exit code {process.returncode}: {text.strip()[-2000:]}")
    elif (problem := step.claim(text)) is not None:
        failed.append(f"{problem}: see {log}")
    if peak >= MOST_BYTES:
        failed.append(f"{peak / 1e9:.2f} GB of memory, {MOST_BYTES / 1e9:.0f} or more")
    return Outcome(seconds=seconds, peak_bytes=peak, failed=tuple(failed))
