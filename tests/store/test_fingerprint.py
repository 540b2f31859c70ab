"""The fingerprint is what every language computes, and old stores keep theirs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from softtargets.errors import FormatError, InputError
from softtargets.store import Store
from softtargets.store.fingerprint import fingerprint_of
from softtargets.store.manifest import parse_manifest
from softtargets.store.versions import is_canonical
from tests.golden import GOLDEN, identity_of
from tests.windows import topk_schema


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.3", "1.03", "1.4", "1.10", "1." + "9" * 5000])
def test_canonical_json_begins_with_1_3_and_goes_on(version: str) -> None:
    assert is_canonical(version)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.02", "1.", "1.x", "3", "", None, 1.3])
def test_older_and_other_versions_are_hashed_as_they_were(version: object) -> None:
    assert not is_canonical(version)


def test_a_new_store_hashes_what_rfc_8785_writes() -> None:
    """The expected text is written out by hand, with what languages disagree about."""
    identity = {
        "format_version": "1.3",
        "z": [1.0, -0.0, 1e-7, 0.1, 1e21, 123456789012345680000.0, True, None],
        "\U0001f600": '\u00e9\u2028/\u0001"\\',
        "\ufb33": 2**53 - 1,
        "a": {"b": {}, "": []},
    }
    # An emoji's first UTF-16 unit is below U+FB33, its code point above.
    text = (
        '{"a":{"":[],"b":{}},"format_version":"1.3",'
        '"z":[1,0,1e-7,0.1,1e+21,123456789012345680000,true,null],'
        '"\U0001f600":"\u00e9\u2028/\\u0001\\"\\\\","\ufb33":9007199254740991}'
    )
    assert fingerprint_of(identity) == hashlib.sha256(text.encode()).hexdigest()


def test_an_older_store_hashes_what_it_did() -> None:
    identity = {"format_version": "1.2", "b": [1.0, "\u00e9"], "a": 1}
    text = '{"a":1,"b":[1.0,"\\u00e9"],"format_version":"1.2"}'
    assert fingerprint_of(identity) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("number", [2**53, -(2**53), float("nan"), float("inf")])
def test_a_number_that_languages_read_differently_is_refused(number: float) -> None:
    with pytest.raises(InputError, match=r"RFC 8785 can write.*found"):
        fingerprint_of(identity_of(topk_schema()) | {"seed": number})


def test_a_manifest_with_such_a_number_is_refused(store: Store) -> None:
    path = store.root / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text())
    manifest["identity"]["of a later release"] = 2**53
    with pytest.raises(FormatError, match=r"field identity: expected what RFC 8785"):
        parse_manifest(json.dumps(manifest).encode(), str(path))


def test_numbers_may_be_written_in_any_way(store: Store, tmp_path: Path) -> None:
    """JavaScript writes 1 where Python writes 1.0; the fingerprint is the same."""
    text = (store.root / "manifest.json").read_text()
    assert "\n    1.0,\n" in text
    for other in ("1", "1.00", "10e-1"):
        changed = text.replace("\n    1.0,\n", f"\n    {other},\n").encode()
        assert parse_manifest(changed, "here").fingerprint == store.fingerprint


def test_an_identity_is_of_the_version_of_its_manifest(store: Store) -> None:
    """Else an edited version would choose the rule of its own hash."""
    manifest: dict[str, Any] = json.loads((store.root / "manifest.json").read_text())
    manifest["identity"]["format_version"] = "1.2"
    manifest["fingerprint"] = fingerprint_of(manifest["identity"])
    with pytest.raises(FormatError, match=r"identity.format_version: expected that of the mani"):
        parse_manifest(json.dumps(manifest).encode(), "here")


@pytest.mark.parametrize("version", [None, True, 1.1, "1.3", "1.0"])
def test_an_older_identity_must_say_which_version_it_is_of(version: object) -> None:
    """Upgrading it would hide that it does not."""
    manifest: dict[str, Any] = json.loads((GOLDEN / "topk-1.1/store/manifest.json").read_text())
    manifest["identity"]["format_version"] = version
    if version is None:
        del manifest["identity"]["format_version"]
    with pytest.raises(FormatError, match=r"identity.format_version: expected that of the mani"):
        parse_manifest(json.dumps(manifest).encode(), "here")
