"""All attacks, kind by kind."""

from __future__ import annotations

from tests.attacks import stores
from tests.attacks.attack import Attack

ATTACKS: tuple[Attack, ...] = (*stores.ATTACKS,)
