"""Two processes for all attacks: one makes their input, the other is forked for each.

Both are smaller than pytest's. The second has imported what commands import, so that no fork does.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import torch

from softtargets.cli import main
from tests.attacks.attack import Outcome, carry_out, prepare
from tests.attacks.every import ATTACKS
from tests.fakes import build_store
from tests.processes import CONTEXT


@dataclass(frozen=True, slots=True)
class Processes:
    """Where attacks are prepared and carried out."""

    _maker: ProcessPoolExecutor
    _attacker: ProcessPoolExecutor

    def carry_out(self, number: int, directory: Path) -> tuple[Outcome, str]:
        """Carry out an attack in an empty directory; return what came of it, and its harm.

        Args:
            number: among `ATTACKS`.
        """
        self._maker.submit(_prepare, number, directory).result()
        return self._attacker.submit(_carry_out, number, directory).result()


@contextmanager
def processes() -> Iterator[Processes]:
    with (
        TemporaryDirectory() as shared,
        ProcessPoolExecutor(1, CONTEXT, _begin_making, (shared,)) as maker,
        ProcessPoolExecutor(1, CONTEXT, _begin_attacking, (shared,)) as attacker,
    ):
        yield Processes(maker, attacker)


def _begin_making(directory: str) -> None:
    """Have temporary files made in a directory that is removed."""
    tempfile.tempdir = directory
    # Its pages may be large ones, so that gigabytes take half the time.
    pa.set_memory_pool(pa.system_memory_pool())


def _begin_attacking(directory: str) -> None:
    """Do late imports now."""
    tempfile.tempdir = directory
    torch.set_num_threads(1)  # A process that has threads of OpenMP cannot be forked.
    with TemporaryDirectory() as own, contextlib.chdir(own):
        build_store(Path())
        for command in (["verify", "store"], ["report", "store", "--output", "page.html"]):
            with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None):
                main(command, prog_name="softtargets")


def _prepare(number: int, directory: Path) -> None:
    prepare(ATTACKS[number], directory)


def _carry_out(number: int, directory: Path) -> tuple[Outcome, str]:
    return carry_out(ATTACKS[number], directory)
