"""Every attack is refused or survived, within the limits of memory and time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.attacks.attack import Outcome, carry_out
from tests.attacks.every import ATTACKS
from tests.processes import CONTEXT


@pytest.fixture(scope="session")
def attacker() -> Iterator[ProcessPoolExecutor]:
    """A process that is smaller than pytest's: it is forked twice for each attack."""
    with TemporaryDirectory() as shared, ProcessPoolExecutor(1, CONTEXT, _keep, (shared,)) as one:
        yield one


def _keep(directory: str) -> None:
    """Have input that attacks share made in a directory which the test removes."""
    tempfile.tempdir = directory


def carry_out_numbered(number: int, directory: Path) -> tuple[Outcome, str]:
    return carry_out(ATTACKS[number], directory)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", range(len(ATTACKS)), ids=[f"{one.kind}: {one.name}" for one in ATTACKS]
)
def test_attack(number: int, tmp_path: Path, attacker: ProcessPoolExecutor) -> None:
    directory = tmp_path / "place"
    directory.mkdir()
    outcome, harm = attacker.submit(carry_out_numbered, number, directory).result()
    assert not harm, f"{harm}\n{outcome.output[-4000:]}"
