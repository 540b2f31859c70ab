"""All attacks, kind by kind."""

from __future__ import annotations

from tests.attacks import training
from tests.attacks.attack import Attack

ATTACKS: tuple[Attack, ...] = (*training.ATTACKS,)
"""Every attack is refused or survived, within the limits of memory and time."""
