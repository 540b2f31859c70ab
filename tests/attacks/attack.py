"""An attack: hostile input, the command that meets it, and what must not come of it.

An attack is carried out in a process of its own, so that its memory is its own, and what it prints
is looked at as a terminal would get it.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import resource
import shutil
import sys
import time
import traceback
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import click

from softtargets.cli import main

MOST_BYTES = 10**9
_OWN_BYTES = 400 << 20
"""What a fresh process has of its own at most, before it meets anything; pytest's has more."""
_ADDRESS_SPACE = 12 << 30
"""Where an attack that succeeds ends, so that it does not take the machine along."""
USAGE_ERROR = 2
"""How a command ends whose options are wrong."""
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What a terminal obeys: escapes, 8-bit controls, carriage returns, turns of the direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an attack."""

    exit_code: int
    output: str
    """What was printed to both streams."""
    peak_bytes: int
    """Of resident memory; some 430 MB of it are torch's and pyarrow's code."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack."""

    kind: str
    """What it tries, in words; attacks of a kind share a row of the table."""
    name: str
    """Which of its kind it is."""
    run: Callable[[Path], None]
    """Meets the input in the directory; an error of the package ends it with exit code 1."""
    prepare: Callable[[Path], object] = lambda _: None
    """Makes the input in an empty directory, which is the working directory then."""
    is_shared: bool = False
    """Whether others have the same `prepare`: it makes their input once, and each gets a copy."""
    wanted: Literal["refused", "survived"] = "refused"
    """Whether it must fail with an error, or go on unharmed."""
    is_command_line: bool = False
    """Whether it lies in the command line itself, which may then be refused as wrong usage."""
    harm: Callable[[Path, Outcome], str] = lambda _, __: ""
    """Says what was lost, leaked or silently wrong afterwards; nothing if all is well."""


def command(*arguments: str) -> Callable[[Path], None]:
    """Return what runs `softtargets` with arguments, in the attack's directory."""

    def run(_: Path) -> None:
        main(list(arguments), prog_name="softtargets")

    return run


_MADE: dict[Callable[[Path], object], TemporaryDirectory[str]] = {}
"""Input that is shared, by what made it."""


def prepare(attack: Attack, directory: Path) -> None:
    """Make the input of an attack in an empty directory."""
    if not attack.is_shared:
        _make_input(attack, directory)
        return
    if attack.prepare not in _MADE:
        made = TemporaryDirectory()
        _make_input(attack, Path(made.name))
        _MADE[attack.prepare] = made
    shutil.copytree(_MADE[attack.prepare].name, directory, dirs_exist_ok=True)


def _make_input(attack: Attack, directory: Path) -> None:
    with contextlib.chdir(directory):
        attack.prepare(directory)


def carry_out(attack: Attack, directory: Path) -> tuple[Outcome, str]:
    """Carry out an attack whose input is made; return what came of it, and the harm it did."""
    outcome = _in_child(attack.run, directory)
    return outcome, _harm(attack, directory, outcome)


def _harm(attack: Attack, directory: Path, outcome: Outcome) -> str:
    found = attack.harm(directory, outcome)
    wanted_failure = attack.wanted == "refused"
    is_misused = outcome.exit_code == USAGE_ERROR and not attack.is_command_line
    control = _CONTROLS.search(outcome.output)
    for harm, is_done in (
        ("a raw traceback", "Traceback (most recent call last)" in outcome.output),
        (f"died by signal {-outcome.exit_code}", outcome.exit_code < 0),
        ("wrong usage: the command did not meet the input", is_misused),
        ("accepted", wanted_failure and outcome.exit_code == 0),
        ("refused, though harmless", not wanted_failure and outcome.exit_code != 0),
        (f"{outcome.peak_bytes / 1e9:.1f} GB of memory", outcome.peak_bytes > MOST_BYTES),
        (f"a raw control character reached the terminal: {control!r}", control is not None),
        (found, found != ""),
    ):
        if is_done:
            return harm
    return ""


def _in_child(run: Callable[[Path], object], directory: Path) -> Outcome:
    """Run something in a forked process, with both streams on a terminal that is read here."""
    sys.stdout.flush()
    sys.stderr.flush()
    inherited = _own_bytes()
    started = time.monotonic()
    process_id, terminal = pty.fork()
    if process_id == 0:
        _become_victim(run, directory)
    output = b"".join(_read(terminal))
    os.close(terminal)
    _, status, usage = os.wait4(process_id, 0)
    return Outcome(
        exit_code=os.waitstatus_to_exitcode(status),
        output=output.decode("utf-8", "surrogateescape"),
        # What this process had of its own is counted as the child's, too.
        peak_bytes=(usage.ru_maxrss << 10) - inherited + min(inherited, _OWN_BYTES),
        seconds=time.monotonic() - started,
    )


def _own_bytes() -> int:
    """Return the memory of this process that belongs to no file."""
    [line] = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) << 10


def _read(terminal: int) -> Iterator[bytes]:
    """Yield what is written to a terminal until its last writer has ended."""
    while True:
        try:
            content = os.read(terminal, 1 << 16)
        except OSError:  # Linux says so instead of an empty read.
            return
        if not content:
            return
        yield content


def _become_victim(run: Callable[[Path], object], directory: Path) -> None:
    """Run something as the whole of this process, which ends with it."""
    exit_code = 1
    try:
        tty.setraw(1)  # Else the terminal itself adds carriage returns.
        # Those that were there belong to pytest. A dumb terminal gets no colours.
        sys.stdin = open(os.devnull)  # noqa: SIM115
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
        os.environ |= {"TERM": "dumb", "TOKENIZERS_PARALLELISM": "false"}
        os.chdir(directory)
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
        run(directory)
        exit_code = 0
    except SystemExit as end:
        exit_code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except click.exceptions.Exit as end:
        exit_code = end.exit_code
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
