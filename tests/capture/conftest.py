"""What tests of teachers share, and tests of plans."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.capture.plans import cut_small

Cut = Callable[[], None]
Save = Callable[[str], Path]


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Return what makes the parts of all stages small."""
    return lambda: cut_small(monkeypatch)


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Return where a random model of a family lies; each is written once."""
    from tests.capture.families import save_model

    return cache(lambda family: save_model(tmp_path_factory.mktemp(family), family))
