"""Every layout of the registry keeps the promises of a layout."""

from __future__ import annotations

import pytest

from softtargets.errors import InputError
from softtargets.layouts import find_layout
from softtargets.layouts.registry import LAYOUTS
from tests.layouts.cases import CASES
from tests.layouts.conformance import Case, Conformance


class TestRegistered(Conformance):
    @pytest.fixture(params=sorted(CASES))
    def case(self, request: pytest.FixtureRequest) -> Case:
        return CASES[request.param]


def test_every_layout_has_a_case() -> None:
    assert set(CASES) == set(LAYOUTS)


def test_a_layout_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"layout: expected one of plain, .*; found nothing"):
        find_layout("nothing")
