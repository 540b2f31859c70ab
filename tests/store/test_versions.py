"""What a release makes of stores that are older or newer than it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softtargets.capture import build
from softtargets.errors import FormatError, IdentityError
from softtargets.store import Store, verify
from softtargets.store.fingerprint import fingerprint_of
from softtargets.store.json_schemas import check_schema
from softtargets.store.shard import describe_shard
from softtargets.store.versions import is_newer, upgrade_targets
from tests.fakes import FakeTeacher, build_config
from tests.golden import arrays_of, identity_of
from tests.store.test_store import edit_manifest
from tests.windows import topk_schema


def test_minor_versions_are_ordered_as_numbers() -> None:
    assert is_newer("1.7")
    assert is_newer("1.10")
    assert not is_newer("1.6")
    assert not is_newer("1.3")
    assert not is_newer("1.0")


@pytest.mark.parametrize("targets", [None, [], {}, {"kind": "other"}, {"kind": "topk"}])
def test_malformed_targets_of_an_older_version_are_left_for_the_schema(targets: Any) -> None:
    identity = {**identity_of(topk_schema()), "targets": upgrade_targets(targets, "1.0")}
    with pytest.raises(FormatError, match=r"here, field targets"):
        check_schema(identity, "identity", "here")


def add_columns(store: Store) -> None:
    """Give every shard columns of another release, or of a user."""

    def change(manifest: dict[str, Any]) -> None:
        for place, entry in enumerate(store.manifest.shards):
            path = store.root / entry.path
            table = pq.read_table(path)
            table = table.append_column("quality", pa.array([0.5] * table.num_rows))
            labels = pa.array([[1]] * table.num_rows)
            table = table.append_column("label_ids", labels).append_column("top_k", labels)
            sizes = [(group.num_windows, group.num_positions) for group in entry.row_groups]
            pq.write_table(table, path, row_group_size=sizes[0][0], write_page_checksum=True)
            told = describe_shard(path.read_bytes(), entry.unit, sizes, {})
            manifest["shards"][place] = json.loads(json.dumps(dataclasses.asdict(told)))

    edit_manifest(store, change)


def test_unknown_columns_are_ignored(store: Store) -> None:
    expected = arrays_of(store)
    add_columns(store)
    found = arrays_of(Store.open(store.root))
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert (found[name] == array).all(), name
    assert verify(store.root).is_sound


def become_newer(store: Store, **targets: Any) -> None:
    """Make a manifest one of format 1.9, with fields of its own."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["format_version"] = manifest["identity"]["format_version"] = "1.9"
        manifest["licence"] = "of a later release"
        manifest["shards"][0]["mirror"] = manifest["shards"][0]["row_groups"][0]["hint"] = "later"
        manifest["identity"]["teacher"]["quantisation"] = "of a later release"
        manifest["identity"]["targets"].update(targets)
        manifest["fingerprint"] = fingerprint_of(manifest["identity"])

    edit_manifest(store, change)


def test_a_newer_minor_version_is_opened(store: Store) -> None:
    become_newer(store)
    assert Store.open(store.root).manifest.format_version == "1.9"


@pytest.mark.parametrize("targets", [{"audio": {"rate": 16_000}}, {"predicts": "previous_token"}])
def test_targets_of_a_newer_release_are_refused_with_the_command_that_helps(
    store: Store, targets: dict[str, Any]
) -> None:
    become_newer(store, **targets)
    with pytest.raises(FormatError, match=r"of format 1\.9; .*\(pip install --upgrade softtargets"):
        Store.open(store.root)


def test_a_build_begun_in_another_version_is_not_mixed_with_this_one(tmp_path: Path) -> None:
    config = build_config(tmp_path)

    def stop(_: object) -> None:
        if list((config.output / "work" / "records").glob("*.json")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(config, FakeTeacher(), stop)
    request = config.output / "work" / "request.json"
    request.write_text(
        request.read_text().replace('"format_version": "1.3"', '"format_version": "1.1"')
    )
    with pytest.raises(
        IdentityError, match=r"a build begun in format 1\.3 or 1\.4 or 1\.5; found one of 1\.1\."
    ):
        build(config, FakeTeacher())
