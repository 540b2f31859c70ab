"""Every attack is refused or survived, within the limits of memory and time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.attack import Attack, carry_out
from tests.attacks.every import ATTACKS


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.kind}: {attack.name}")
def test_attack(attack: Attack, tmp_path: Path) -> None:
    directory = tmp_path / "place"
    directory.mkdir()
    outcome, harm = carry_out(attack, directory)
    assert not harm, f"{harm}\n{outcome.output[-4000:]}"
