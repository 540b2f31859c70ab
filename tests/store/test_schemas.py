from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from softtargets.errors import FormatError
from softtargets.kinds import HeadSchema
from softtargets.store.json_schemas import check_schema
from softtargets.store.manifest import parse_manifest
from tests.golden import GOLDEN

SAMPLES = sorted((Path(__file__).parent / "invalid").glob("*.json"))
VALID = Path(__file__).parent / "invalid" / "valid.json"


def test_the_sample_the_others_are_made_from_is_valid() -> None:
    assert parse_manifest(VALID.read_bytes(), "here").targets.head == HeadSchema(max_entries=8)
    assert len(SAMPLES) > 30


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.name)
def test_every_golden_store_follows_the_schemas_as_it_was_written(path: Path) -> None:
    data = json.loads((path / "store" / "manifest.json").read_text())
    check_schema(data, "manifest", "here")
    check_schema(data["identity"], "identity", "here")


def test_only_what_must_be_understood_is_closed() -> None:
    """As published the schemas take fields of later versions anywhere."""
    data = json.loads(VALID.read_text())
    places = [data, data["identity"], data["identity"]["targets"]]
    places += [data["identity"]["targets"]["head"], data["identity"]["corpus"], data["shards"][0]]
    for name, document in (("manifest", data), ("identity", data["identity"])):
        text = files("softtargets.schemas").joinpath(f"{name}.schema.json").read_text()
        validator = jsonschema_rs.Draft202012Validator(json.loads(text))
        for place in places:
            place["of a later version"] = 1
            assert validator.is_valid(document)
            del place["of a later version"]


FEATURE = {"name": "last_hidden", "width": 6, "rows": "targets", "dtype": "bfloat16"}
OUTPUT_HEAD = {"width": 6, "dtype": "bfloat16", "sha256": "e" * 64}
DRAWS = {"num_draws": 4, "origin": "all", "temperature": 1.0, "values": "none"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vocab_size": 7}, "at most as many entries in a head as the vocabulary has"),
        ({"samples": DRAWS | {"temperature": 1.5}}, "samples drawn at a temperature of the grid"),
        (
            {"features": [FEATURE | {"width": 5}], "output_head": OUTPUT_HEAD},
            "a feature last_hidden of each target or token, as wide and in the format of the "
            "output head",
        ),
        (
            {"features": [FEATURE | {"dtype": "float16"}], "output_head": OUTPUT_HEAD},
            "a feature last_hidden of each target or token, as wide and in the format of the "
            "output head",
        ),
        ({"temperatures": [1.0, 1.0000001]}, "temperatures that differ in 6 digits"),
    ],
)
def test_what_no_json_schema_can_compare_is_refused_by_the_parser(
    changes: dict[str, Any], expected: str
) -> None:
    data = json.loads(VALID.read_text())
    data["identity"]["targets"].update(changes)
    check_schema(data["identity"], "identity", "here")
    with pytest.raises(FormatError, match=expected):
        parse_manifest(json.dumps(data).encode(), "here")
