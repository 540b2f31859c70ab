"""The teacher's output head in a store: exact, checked when it is read, kept by what is derived."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from softtargets.errors import CorruptionError, FormatError, IdentityError, InputError, StoreError
from softtargets.kinds import TargetSchema
from softtargets.store import (
    Store,
    export_plain,
    filter_store,
    merge_stores,
    split_store,
    verify,
)
from softtargets.store.fingerprint import fingerprint_of
from softtargets.store.output_head import describe_output_head, encode_output_head
from softtargets.store.writer import StoreWriter
from softtargets.targets import DType, HeadWeights
from softtargets.targets.head_weights import HeadTransform, TransformSchema
from softtargets.window import Window
from tests.fakes import FakeTeacher, build_config, build_store
from tests.golden import identity_of, write_store
from tests.store.test_codec import assert_same
from tests.store.test_store import edit_manifest
from tests.windows import KINDS, as_bfloat16, head_schema, make_head, make_window, of_own_documents


def make_windows(schema: TargetSchema, seed: int = 0) -> list[list[Window]]:
    rng = np.random.default_rng(seed)
    return [[make_window(rng, schema, num_tokens=length)[0] for length in (9, 5)] for _ in range(3)]


def make_store(directory: Path, head: HeadWeights | None = None, seed: int = 0) -> Store:
    head = head or make_head()
    schema = head_schema(head)
    windows = [of_own_documents(group) for group in make_windows(schema, seed)]
    return write_store(directory, schema, windows, head)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_it_comes_back_exactly(tmp_path: Path, dtype: DType, has_bias: bool) -> None:
    head = replace(make_head(), dtype=dtype)
    if dtype == "float16":
        head = replace(head, weight_VD=head.weight_VD.astype(np.float16).astype(np.float32))
    if not has_bias:
        head = replace(head, bias_V=None, scale=1.0, divisor=1.0, softcap=None)
    store = make_store(tmp_path / "store", head)
    assert_same(Store.open(store.root).output_head(), head)
    assert verify(store.root).is_sound
    size = (store.root / "head.parquet").stat().st_size
    assert size < 300 * (6 * (4 if dtype == "float32" else 2) + 4 * has_bias) + 2000


def with_transform(head: HeadWeights) -> HeadWeights:
    """Return a head with layers before its product, in the same number format."""
    rows = as_bfloat16(np.random.default_rng(3).standard_normal((9, 6)).astype(np.float32))
    transform = HeadTransform(
        dense_DD=rows[:6],
        dense_bias_D=rows[6],
        norm_scale_D=rows[7],
        norm_shift_D=rows[8],
        schema=TransformSchema(activation="silu", epsilon=1e-5),
    )
    return replace(head, transform=transform)


def test_a_transform_comes_back_exactly_wherever_the_store_goes(tmp_path: Path) -> None:
    head = with_transform(make_head())
    store = make_store(tmp_path / "store", head)
    assert_same(Store.open(store.root).output_head(), head)
    assert verify(store.root).is_sound
    other = make_store(tmp_path / "other", head, seed=1)
    merged = merge_stores([store.root, other.root], tmp_path / "merged")
    assert_same(merged.output_head(), head)
    for name in ("dense_DD", "dense_bias_D", "norm_scale_D", "norm_shift_D"):
        assert head.transform is not None
        changed = replace(head.transform, **{name: -getattr(head.transform, name)})
        described = describe_output_head(replace(head, transform=changed))
        assert described.sha256 != describe_output_head(head).sha256
    with pytest.raises(InputError, match="a transform only of an output head with biases"):
        replace(store.targets, output_head=replace(describe_output_head(head), bias=False))


@pytest.mark.parametrize("name", ["dense_DD", "dense_bias_D", "norm_scale_D"])
def test_a_transform_that_is_no_number_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = with_transform(make_head())
    assert head.transform is not None
    broken = getattr(head.transform, name).copy()
    broken.flat[0] = -np.inf
    head = replace(head, transform=replace(head.transform, **{name: broken}))
    with monkeypatch.context() as patch:
        patch.setattr("softtargets.store.output_head._check_numbers", lambda *_: None)
        store = make_store(tmp_path / "store", head)
    with pytest.raises(CorruptionError, match="that are finite numbers"):
        store.output_head()


def test_weights_that_their_format_cannot_hold_are_refused() -> None:
    wide = replace(make_head(), weight_VD=np.full((300, 6), 1.001, np.float32))
    for use in (describe_output_head, encode_output_head):
        with pytest.raises(
            InputError, match=r"output head: .* bfloat16 holds exactly; found 1\.00"
        ):
            use(wide)


def test_its_hash_is_that_of_the_weights_and_not_of_the_file(tmp_path: Path) -> None:
    """So that stores that other versions of pyarrow wrote are of the same teacher."""
    head = make_head()
    described = describe_output_head(head)
    for change in ({"weight_VD": -head.weight_VD}, {"bias_V": None}, {"dtype": "float32"}):
        assert describe_output_head(replace(head, **change)).sha256 != described.sha256
    assert encode_output_head(head) == encode_output_head(head)
    store = make_store(tmp_path / "store")
    path = store.root / "head.parquet"
    pq.write_table(pq.read_table(path), path, compression="zstd")
    with pytest.raises(CorruptionError, match=r"head\.parquet: expected .* bytes"):
        store.output_head()
    tell_of(store, path.read_bytes())
    assert_same(Store.open(store.root).output_head(), head)
    assert verify(store.root).is_sound


def tell_of(store: Store, content: bytes) -> None:
    """Make the manifest say what the file is."""
    from softtargets.hashes import hash_bytes

    entry = {"num_bytes": len(content), "sha256": hash_bytes(content)}
    edit_manifest(store, lambda manifest: manifest.update(output_head=entry))


@pytest.mark.slow
def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    path = store.root / "head.parquet"
    content = path.read_bytes()
    for at in {*range(0, len(content), 97), 0, len(content) - 1, len(content) - 100}:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        [problem] = verify(store.root).problems
        assert problem.where == str(path)
        with pytest.raises(CorruptionError, match="bytes with SHA-256"):
            store.output_head()
        assert verify(store.root, fast=True).is_sound
    path.write_bytes(content)
    assert verify(store.root).is_sound


@pytest.mark.slow
@pytest.mark.parametrize("fast", [True, False])
def test_a_file_that_is_cut_or_gone_is_noticed(tmp_path: Path, fast: bool) -> None:
    store = make_store(tmp_path / "store")
    path = store.root / "head.parquet"
    content = path.read_bytes()
    path.rename(tmp_path / "elsewhere.parquet")
    path.symlink_to(tmp_path / "elsewhere.parquet")
    assert [one.found for one in verify(store.root, fast=fast).problems] == ["a symbolic link"]
    path.unlink()
    path.write_bytes(content[:-1])
    assert [one.where for one in verify(store.root, fast=fast).problems] == [str(path)]
    path.unlink()
    [problem] = verify(store.root, fast=fast).problems
    assert problem.found == "no file"
    # The targets themselves are read without it.
    assert len(list(store)) == len(store)


def test_the_head_of_another_teacher_is_noticed_though_the_manifest_names_it(
    tmp_path: Path,
) -> None:
    store = make_store(tmp_path / "store")
    other = encode_output_head(replace(make_head(), weight_VD=-make_head().weight_VD))
    for content, message in (
        (other, "weights with SHA-256"),
        (encode_output_head(make_head(299)), "300 rows of 6 bfloat16"),
        (encode_output_head(replace(make_head(), bias_V=None)), "300 rows of 6"),
        (b"PAR1" * 9, "300 rows of 6 bfloat16"),
    ):
        (store.root / "head.parquet").write_bytes(content)
        tell_of(store, content)
        with pytest.raises(CorruptionError, match=message):
            Store.open(store.root).output_head()
        assert len(verify(store.root).problems) == 1


def test_a_manifest_that_lost_it_is_refused(tmp_path: Path, store: Store) -> None:
    with_head = make_store(tmp_path / "with")
    edit_manifest(with_head, lambda manifest: manifest.pop("output_head"))
    with pytest.raises(FormatError, match="field output_head: expected size and hash"):
        Store.open(with_head.root)
    tell_of(store, b"head")
    with pytest.raises(FormatError, match="field output_head"):
        Store.open(store.root)


def test_it_is_part_of_the_fingerprint() -> None:
    schema = head_schema(make_head())
    prints = {fingerprint_of(identity_of(schema))}
    for change in ({"scale": 1.0}, {"divisor": 1.0}, {"softcap": None}, {"bias_V": None}):
        prints.add(fingerprint_of(identity_of(head_schema(replace(make_head(), **change)))))
    assert len(prints) == 5


def test_a_store_without_one_says_so(store: Store) -> None:
    with pytest.raises(InputError, match="expected a store with the teacher's output head; found"):
        store.output_head()
    assert not (store.root / "head.parquet").exists()


@pytest.mark.slow
def test_what_is_derived_keeps_it(tmp_path: Path) -> None:
    store, other = (make_store(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 1)))
    merged = merge_stores([store.root, other.root], tmp_path / "merged")
    assert len(merged) == len(store) + len(other)
    train, validation = split_store(
        store.root, tmp_path / "train", tmp_path / "validation", fraction=0.5
    )
    kept = filter_store(store.root, tmp_path / "kept", sources=["random"])
    for derived in (merged, train, validation, kept):
        assert (derived.root / "head.parquet").read_bytes() == (
            store.root / "head.parquet"
        ).read_bytes()
        assert_same(derived.output_head(), make_head())
        assert verify(derived.root).is_sound
        assert not (derived.root / "work").exists()


def test_stores_of_other_heads_are_not_merged(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a")
    other = make_store(tmp_path / "b", replace(make_head(), weight_VD=-make_head().weight_VD))
    with pytest.raises(IdentityError, match=r"field targets\.output_head\.sha256"):
        merge_stores([store.root, other.root], tmp_path / "merged")


def test_a_damaged_head_is_not_derived_from(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    path = store.root / "head.parquet"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(CorruptionError, match=r"head\.parquet"):
        filter_store(store.root, tmp_path / "kept", sources=["random"])


def test_the_plain_layout_has_it(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    directory = export_plain(store.root, tmp_path / "plain")
    table = pq.read_table(directory / "_head.parquet")
    assert table["weight"].to_pylist() == make_head().weight_VD.tolist()
    assert table["bias"].to_pylist() == make_head().bias_V.tolist()  # type: ignore[union-attr]
    # Whoever reads the directory as one table gets windows alone.
    rows = pq.read_table(directory).to_pylist()
    window = next(iter(store))
    assert len(rows) == len(store)
    assert rows[0]["feature_last_hidden"] == window.targets.features["last_hidden"].tolist()


def test_no_store_is_committed_without_it(tmp_path: Path) -> None:
    schema = head_schema(make_head())
    windows = make_windows(schema)
    with StoreWriter.hold(tmp_path / "store", identity_of(schema)) as writer:
        writer.write_unit(0, windows[0], {})
        with pytest.raises(StoreError, match="the teacher's output head, written before any unit"):
            writer.commit(1, "invented", {"windows": 2, "tokens": 14})
        writer.write_output_head(encode_output_head(make_head(299)))
        with pytest.raises(CorruptionError, match="300 rows of 6"):
            writer.commit(1, "invented", {"windows": 2, "tokens": 14})
        assert not writer.is_complete


def test_another_identity_begins_with_its_own(tmp_path: Path) -> None:
    """A head that an earlier attempt left behind is not taken for this one's."""
    left = replace(make_head(), scale=1.0)
    with StoreWriter.hold(tmp_path / "store", identity_of(head_schema(left))) as writer:
        writer.write_output_head(encode_output_head(replace(left, weight_VD=-left.weight_VD)))
    assert_same(make_store(tmp_path / "store").output_head(), make_head())


def test_a_build_that_died_between_head_and_manifest_is_finished(tmp_path: Path) -> None:
    schema = head_schema(make_head())
    windows = make_windows(schema)
    with StoreWriter.hold(tmp_path / "store", identity_of(schema)) as writer:
        writer.write_output_head(encode_output_head(make_head()))
        for unit, group in enumerate(windows):
            writer.write_unit(unit, group, {})
        (tmp_path / "store" / "head.parquet").write_bytes(b"of a commit that died")
    store = make_store(tmp_path / "store")
    assert verify(store.root).is_sound


def test_fingerprints_of_stores_without_it_are_as_before() -> None:
    for kind, schema in KINDS.items():
        assert ("output_head" in schema.to_dict()) == (kind == "with-output-head")


def test_the_fake_teacher_has_one(tmp_path: Path) -> None:
    store = build_store(tmp_path, hidden_states=True)
    assert_same(store.output_head(), FakeTeacher().output_head())
    assert build_config(tmp_path).hidden_states is False
