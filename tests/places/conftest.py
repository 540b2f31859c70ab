"""Fixtures of tests that read from places."""

from __future__ import annotations

import pytest

from softtargets.places import retries


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait hardly at all before another attempt."""
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)
