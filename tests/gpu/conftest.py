"""Tests that need a card: `make gpu`. With --device cpu they run without one, to be tested."""

from __future__ import annotations

import pytest

from tests.gpu.card import has_card

NO_CARD = "no card: torch.cuda.is_available() is false; `make gpu` runs these where there is one"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda", help="Where tests marked gpu run.")


def _device(config: pytest.Config) -> str:
    return str(config.getoption("--device", default="cuda"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _device(config).startswith("cuda") and not has_card():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=NO_CARD))


@pytest.fixture
def device(pytestconfig: pytest.Config) -> str:
    return _device(pytestconfig)
