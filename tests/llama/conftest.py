"""Tests that need llama.cpp: `make llama`, which has an environment of its own for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.environments import skip_without
from tests.tiny_gguf import write_gguf


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them where it is not installed, but not by `make llama`, which sets the variable."""
    skip_without(
        "llama_cpp",
        items,
        directory=Path(__file__).parent,
        unless="SOFTTARGETS_LLAMA",
        reason="no llama-cpp-python here: `make llama` installs it and runs these",
    )


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
