"""Models of every kind, each written once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.layers.models import save_classifier, save_model

Saved = Callable[[str], Path]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Return where a model of a kind lies."""

    @cache
    def save(kind: str) -> Path:
        directory = tmp_path_factory.mktemp(kind)
        if kind == "classes":
            return save_classifier(directory, save("bert"))
        return save_model(directory, kind)

    return save
