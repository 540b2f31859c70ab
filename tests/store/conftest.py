"""What tests of stores share."""

from __future__ import annotations

import pytest

from softtargets.store import leases
from tests.store.clocks import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that a process has for the heartbeats of others."""
    clock = Clock()
    monkeypatch.setattr(leases, "time", clock)
    return clock
