"""Tests that need llama.cpp: `make llama`, which has an environment of its own for them."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.tiny_gguf import write_gguf

NO_LLAMA = "no llama-cpp-python here: `make llama` installs it and runs these"
MUST_RUN = "SOFTTARGETS_LLAMA"
"""Set by `make llama`, so that nothing is skipped there."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if find_spec("llama_cpp") is None and MUST_RUN not in os.environ:
        for item in items:
            if Path(item.path).parent == Path(__file__).parent:
                item.add_marker(pytest.mark.skip(reason=NO_LLAMA))


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
