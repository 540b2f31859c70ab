"""All attacks, kind by kind."""

from __future__ import annotations

from tests.attacks import imports
from tests.attacks.attack import Attack

ATTACKS: tuple[Attack, ...] = (*imports.ATTACKS,)
