from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softtargets.capture import TopK, build
from softtargets.errors import CorruptionError
from softtargets.hashes import hash_bytes
from softtargets.store import (
    Store,
    export_plain,
    filter_store,
    merge_stores,
    split_store,
    verify,
)
from softtargets.store.vocabulary import VOCABULARY_NAME, decode_vocabulary, encode_vocabulary
from softtargets.tokenizer import Vocabulary
from tests.fakes import ByteTokenizer, FakeTeacher, build_config, build_store
from tests.golden import GOLDEN, write_store
from tests.store.test_codec import assert_same
from tests.store.test_store import edit_manifest
from tests.windows import KINDS, make_vocabulary, make_window, of_own_documents


def make_store(
    directory: Path, vocabulary: Vocabulary | None = None, kind: str = "topk", seed: int = 0
) -> Store:
    rng = np.random.default_rng(seed)
    windows = [
        of_own_documents(make_window(rng, KINDS[kind])[0] for _ in range(3)) for _ in range(2)
    ]
    return write_store(directory, KINDS[kind], windows, vocabulary=vocabulary)


def test_it_comes_back_exactly() -> None:
    vocabulary = make_vocabulary()
    content = encode_vocabulary(vocabulary)
    assert_same(decode_vocabulary(content, "here"), vocabulary)
    assert encode_vocabulary(vocabulary) == content
    texts = "".join(vocabulary.tokens).encode()
    assert len(content) < len(texts)


def test_a_build_keeps_that_of_its_tokenizer(store: Store) -> None:
    assert_same(store.vocabulary, ByteTokenizer().vocabulary())
    window = next(iter(store))
    assert store.vocabulary is not None
    assert store.vocabulary.text(window.input_ids_L) == bytes(window.input_ids_L.tolist()).decode()
    assert verify(store.root).is_sound


def test_a_store_without_one_is_a_store(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    assert store.vocabulary is None
    assert not (store.root / VOCABULARY_NAME).exists()
    assert verify(store.root).is_sound


def test_it_is_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    without = make_store(tmp_path / "without")
    assert without.fingerprint == make_store(tmp_path / "with", make_vocabulary()).fingerprint


@pytest.mark.slow
def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", make_vocabulary())
    path = store.root / VOCABULARY_NAME
    content = path.read_bytes()
    for at in {*range(0, len(content), 29), len(content) - 1}:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        [problem] = verify(store.root).problems
        assert problem.where == str(path)
        with pytest.raises(CorruptionError, match="bytes with SHA-256"):
            _ = Store.open(store.root).vocabulary
        assert verify(store.root, fast=True).is_sound


@pytest.mark.parametrize("fast", [True, False])
def test_a_file_that_is_cut_gone_or_a_link_is_noticed(tmp_path: Path, fast: bool) -> None:
    store = make_store(tmp_path / "store", make_vocabulary())
    path = store.root / VOCABULARY_NAME
    content = path.read_bytes()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert [one.found for one in verify(store.root, fast=fast).problems] == ["a symbolic link"]
    path.unlink()
    path.write_bytes(content[:-1])
    assert [one.where for one in verify(store.root, fast=fast).problems] == [str(path)]
    path.unlink()
    assert [one.found for one in verify(store.root, fast=fast).problems] == ["no file"]
    # Targets are read without it.
    assert len(list(store)) == len(store)


def as_parquet(**columns: list[object]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"PAR1" * 9, "a footer longer than the file"),
        (as_parquet(token_id=[1], token=["a"]), "utf8"),
        (as_parquet(token_id=[1, None], token=["a", "b"], utf8=[b"a", b"b"]), "null"),
        (as_parquet(token_id=[1, 2], token=["a", None], utf8=[b"a", b"b"]), "null"),
        (as_parquet(token_id=["x"], token=["a"], utf8=[b"a"]), "x"),
        (as_parquet(token_id=[2, 1], token=["a", "b"], utf8=[b"a", b"b"]), "ids that do not rise"),
        (as_parquet(token_id=[1, 1], token=["a", "b"], utf8=[b"a", b"b"]), "ids that do not rise"),
    ],
)
def test_what_is_no_vocabulary_is_refused_though_the_manifest_names_it(
    tmp_path: Path, content: bytes, found: str
) -> None:
    store = make_store(tmp_path / "store", make_vocabulary())
    (store.root / VOCABULARY_NAME).write_bytes(content)
    entry = {"num_bytes": len(content), "sha256": hash_bytes(content)}
    edit_manifest(store, lambda manifest: manifest.update(vocabulary=entry))
    with pytest.raises(
        CorruptionError, match=f"a row for each token, by rising id; found .*{found}"
    ):
        _ = Store.open(store.root).vocabulary
    assert len(verify(store.root).problems) == 1


@pytest.mark.slow
def test_what_is_derived_has_it(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a", make_vocabulary())
    unnamed = make_store(tmp_path / "b", seed=1)
    split = split_store(store.root, tmp_path / "train", tmp_path / "validation", fraction=0.5)
    kept = filter_store(store.root, tmp_path / "kept", sources=["random"])
    pairs = (store, unnamed), (unnamed, store)
    merged = [
        merge_stores([one.root for one in pair], tmp_path / f"merged-{number}")
        for number, pair in enumerate(pairs)
    ]
    for derived in (*split, kept, *merged):
        assert_same(derived.vocabulary, make_vocabulary())
        assert verify(derived.root).is_sound
    plain = export_plain(store.root, tmp_path / "plain")
    rows = pq.read_table(plain / "_vocabulary.parquet").to_pylist()
    assert [row["token"] for row in rows] == list(make_vocabulary().tokens)
    assert len(pq.read_table(plain)) == len(store)


def test_a_damaged_one_is_not_derived_from(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", make_vocabulary())
    path = store.root / VOCABULARY_NAME
    path.write_bytes(path.read_bytes()[::-1])
    uses: list[Callable[[], object]] = [
        lambda: filter_store(store.root, tmp_path / "kept", sources=["random"]),
        lambda: export_plain(store.root, tmp_path / "plain"),
    ]
    for use in uses:
        with pytest.raises(CorruptionError, match=r"vocabulary\.parquet"):
            use()


def test_stores_of_older_formats_have_none() -> None:
    for name in ("topk-1.0", "topk-1.1"):
        assert Store.open(GOLDEN / name / "store").vocabulary is None


def test_a_store_of_format_1_1_goes_together_with_one_of_today(tmp_path: Path) -> None:
    old = Store.open(GOLDEN / "with-metadata-1.1" / "store")
    new = make_store(tmp_path / "new", make_vocabulary(), kind="with-metadata")
    assert json.loads((old.root / "manifest.json").read_text())["fingerprint"] == old.fingerprint
    merged = merge_stores([old.root, new.root], tmp_path / "merged")
    assert len(merged) == len(old) + len(new)
    assert_same(merged.vocabulary, make_vocabulary())


def test_another_identity_begins_with_its_own(tmp_path: Path) -> None:
    """What an attempt left behind that did no unit is not taken for this one's."""

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    class Other(ByteTokenizer):
        def vocabulary(self) -> Vocabulary:
            return make_vocabulary()

    teacher = FakeTeacher()
    teacher.tokenizer = Other()
    config = build_config(tmp_path, selection=TopK(k=4))
    with pytest.raises(KeyboardInterrupt):
        build(config, teacher, stop)
    assert (config.output / "work" / VOCABULARY_NAME).is_file()
    assert_same(build_store(tmp_path).vocabulary, ByteTokenizer().vocabulary())
