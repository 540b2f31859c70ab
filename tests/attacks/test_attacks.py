"""Every attack is refused or survived, within the limits of memory and time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.attacker import Attacker, attacker
from tests.attacks.every import ATTACKS


@pytest.fixture(scope="module", name="attacker")
def _attacker() -> Iterator[Attacker]:
    with attacker() as process:
        yield process


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", range(len(ATTACKS)), ids=[f"{one.kind}: {one.name}" for one in ATTACKS]
)
def test_attack(attacker: Attacker, number: int, tmp_path: Path) -> None:
    directory = tmp_path / "place"
    directory.mkdir()
    harm, printed = attacker.carry_out(number, directory)
    assert not harm, f"{harm}\n{printed}"
