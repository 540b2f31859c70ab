"""All attacks, kind by kind."""

from __future__ import annotations

from tests.attacks import (
    contradictions,
    files,
    imports,
    stores,
    tables,
    teachers,
    texts,
    training,
)
from tests.attacks.attack import Attack

ATTACKS: tuple[Attack, ...] = (
    *contradictions.ATTACKS,
    *files.ATTACKS,
    *imports.ATTACKS,
    *stores.ATTACKS,
    *tables.ATTACKS,
    *teachers.ATTACKS,
    *texts.ATTACKS,
    *training.ATTACKS,
)
