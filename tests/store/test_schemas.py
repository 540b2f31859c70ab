from __future__ import annotations

import json
from pathlib import Path

import pytest

from softtargets.errors import FormatError
from softtargets.kinds import HeadSchema
from softtargets.store.manifest import check_schema, parse_manifest

SAMPLES = sorted((Path(__file__).parent / "invalid").glob("*.json"))
VALID = Path(__file__).parent / "invalid" / "valid.json"


def test_the_sample_the_others_are_made_from_is_valid() -> None:
    assert parse_manifest(VALID.read_bytes(), "here").targets.head == HeadSchema(max_entries=8)
    assert len(SAMPLES) > 30


@pytest.mark.parametrize(
    "path", [path for path in SAMPLES if path != VALID], ids=lambda path: path.stem
)
def test_every_invalid_sample_is_refused_by_the_schemas_and_by_the_parser(path: Path) -> None:
    data = json.loads(path.read_text())
    with pytest.raises(FormatError, match=r"expected what (manifest|identity)\.schema\.json says"):
        check_schema(data, "manifest", "here")
        check_schema(data["identity"], "identity", "here")
    with pytest.raises(FormatError, match=path.name):
        parse_manifest(path.read_bytes(), str(path))
