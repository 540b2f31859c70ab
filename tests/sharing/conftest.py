"""A Hub to share stores on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hub import Hub, run_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub without Xet, which the client may reach."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with run_hub() as hub:
        yield hub
