"""Every attack is refused or survived, within the limits of memory and time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.every import ATTACKS
from tests.attacks.processes import Processes, processes


@pytest.fixture(scope="session")
def attackers() -> Iterator[Processes]:
    with processes() as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", range(len(ATTACKS)), ids=[f"{one.kind}: {one.name}" for one in ATTACKS]
)
def test_attack(number: int, tmp_path: Path, attackers: Processes) -> None:
    directory = tmp_path / "place"
    directory.mkdir()
    outcome, harm = attackers.carry_out(number, directory)
    assert not harm, f"{harm}\n{outcome.output[-4000:]}"
