"""What is stated of each layout's files, and how those are made that softtargets does not write."""

from __future__ import annotations

from pathlib import Path

from softtargets.store import Store
from tests.layouts.conformance import Case
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
_CASES = [
    Case(name="plain", foreign=None),
    Case(name="axolotl", reading=FULL | {"values_are": "renormalised"}),
    Case(name="distillkit", reading=FULL),
    Case(
        name="token-logits",
        reading={"values_are": "logits", "vocab_size": 300},
        make=write_token_logits,
    ),
]
CASES = {case.name: case for case in _CASES}
"""A case for every layout of the registry, by name."""
