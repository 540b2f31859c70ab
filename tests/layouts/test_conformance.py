"""Every layout of the registry keeps the promises of a layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from softtargets.errors import InputError
from softtargets.layouts import find_layout
from softtargets.layouts.registry import LAYOUTS
from softtargets.store import Store
from tests.layouts.conformance import Case, Conformance
from tests.layouts.readers import write_rows


def write_token_logits(store: Store, directory: Path) -> Path:
    """Write windows of one document each as Arcee's set has them, in two files."""
    directory.mkdir()
    windows = list(store)
    for number, own in enumerate((windows[:9], windows[9:])):
        columns = {
            "input_ids": [one.input_ids_L.tolist() for one in own],
            "token_ids": [one.targets.ids_TK.tolist() for one in own],
            "top_values": [one.targets.logits_TK.tolist() for one in own],
        }
        write_rows(directory / f"part-{number}.parquet", columns)
    return directory


FULL = {"values_are": "full", "temperature": 1.0, "vocab_size": 300}
CASES = [
    Case(name="plain", foreign=None),
    Case(name="axolotl", reading=FULL | {"values_are": "renormalised"}),
    Case(name="distillkit", reading=FULL),
    Case(
        name="token-logits",
        reading={"values_are": "logits", "vocab_size": 300},
        make=write_token_logits,
    ),
]


class TestRegistered(Conformance):
    @pytest.fixture(params=CASES, ids=lambda case: case.name)
    def case(self, request: pytest.FixtureRequest) -> Case:
        case: Case = request.param
        return case


def test_every_layout_has_a_case() -> None:
    assert [case.name for case in CASES] == list(LAYOUTS)


def test_a_layout_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"layout: expected one of plain, .*; found nothing"):
        find_layout("nothing")
