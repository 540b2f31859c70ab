"""All attacks, kind by kind."""

from __future__ import annotations

from tests.attacks import files
from tests.attacks.attack import Attack

ATTACKS: tuple[Attack, ...] = (*files.ATTACKS,)
