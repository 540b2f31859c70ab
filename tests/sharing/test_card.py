"""The README.md of a store: read by `datasets` without softtargets, and edited by people."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import get_dataset_config_names, load_dataset
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from softtargets import Store, verify
from softtargets.errors import FormatError, IdentityError, InputError, LimitError
from softtargets.sharing import unstated_licences, write_card
from softtargets.store import filter_store
from softtargets.store.card import CARD_NAME, card_text
from softtargets.store.json_object import parse_object
from softtargets.store.manifest import Manifest
from softtargets.targets import columns_of
from tests.commands import run
from tests.fakes import build_store, write_corpus
from tests.golden import GOLDEN, make_store
from tests.windows import KINDS

HOSTILE = (
    "`a` | <img src=x> --></p>\n---\nlicense: mit\n<!-- softtargets:end description -->\n\ud800"
)


def read(card: Path) -> str:
    return card.read_bytes().decode()


def fields_of(text: str) -> dict[str, Any]:
    """Return the YAML fields of a card."""
    fields: dict[str, Any] = DatasetCard(text).data.to_dict()
    return fields


def copy_of(name: str, directory: Path) -> Path:
    """Copy a golden store to a directory."""
    return Path(shutil.copytree(GOLDEN / name / "store", directory))


def check_code(store: Store, code: str) -> None:
    """Run the code of a card where `org/name` is the store, and compare what it decodes."""
    found: dict[str, Any] = {}
    exec(code, found)
    targets = next(iter(store)).targets
    kept_TK = np.isfinite(targets.logits_TK)
    np.testing.assert_array_equal(found["ids"][kept_TK], targets.ids_TK[kept_TK])
    np.testing.assert_allclose(found["logits"], targets.logits_TK, rtol=1e-6)
    temperatures = store.targets.temperatures
    assert ("probabilities" in found) == bool(temperatures)
    if temperatures:
        expected_TK = np.exp(targets.logprobs_TK(temperatures[0]))
        np.testing.assert_allclose(found["probabilities"], expected_TK, rtol=1e-4, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_store_has_a_card(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "org" / "name", kind)
    text = read(store.root / CARD_NAME)
    fields = fields_of(text)
    assert fields["tags"] == ["softtargets", "knowledge-distillation"]
    assert fields["size_categories"] == ["n<1K"]
    assert "license" not in fields
    configs = MetadataConfigs.from_dataset_card_data(DatasetCard(text).data)
    assert configs.get_default_config_name() == "default"
    for column in columns_of(store.targets):
        assert f"| `{column.name}` | " in text
    assert store.fingerprint in text
    assert not re.search(r"\bNone\b(?!\])", text)
    write_card(store)
    assert read(store.root / CARD_NAME) == text, "it is right already"
    assert verify(store).is_sound
    codes = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(codes) == (store.targets.head is not None)
    monkeypatch.chdir(tmp_path)
    for code in codes:
        check_code(store, code)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_datasets_reads_stores_of_every_version(name: str, tmp_path: Path) -> None:
    root = copy_of(name, tmp_path / "store")
    assert run("card", root).exit_code == 0
    expected = pq.read_table(root / "shards").to_pylist()
    rows = load_dataset(str(root), split="train", streaming=True)
    # A label that is not known is NaN, which equals nothing.
    assert str(list(rows)) == str(expected)
    has_vocabulary = (root / "vocabulary.parquet").is_file()
    assert get_dataset_config_names(str(root)) == ["default", "vocabulary"][: 1 + has_vocabulary]
    if has_vocabulary:
        tokens = load_dataset(str(root), "vocabulary", split="train", streaming=True)
        assert list(tokens) == pq.read_table(root / "vocabulary.parquet").to_pylist()


WITHOUT_SOFTTARGETS = """
import sys
sys.modules["softtargets"] = None
from datasets import load_dataset
store, cache = sys.argv[1:]
dataset = load_dataset(store, cache_dir=cache)
streamed = load_dataset(store, streaming=True)
assert list(dataset) == list(streamed) == ["train"]
first, *_ = streamed["train"]  # A stream that is left open may end the interpreter by an abort.
assert dataset["train"][0] == first
print(len(dataset["train"]), dataset["train"].features, first)
"""


@pytest.mark.slow
def test_datasets_needs_no_softtargets(store: Store, tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", WITHOUT_SOFTTARGETS, store.root, tmp_path / "cache"],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    window = next(iter(store))
    assert len(store.manifest.shards) > 1
    assert shown.stdout.startswith(f"{len(store)} ")
    assert "'input_ids': List(Value('int32'))" in shown.stdout
    assert f"'input_ids': {window.input_ids_L.tolist()}" in shown.stdout
    for name in ("window_id", "mask", "label_logit", "label_rank", "tail_mass_t2", "top_logit"):
        assert f"'{name}': " in shown.stdout


def with_names(manifest: Manifest, name: str) -> Manifest:
    """Return a manifest in which everything that somebody chose is called the same."""
    identity = json.loads(json.dumps(manifest.identity))
    identity["teacher"] |= {"architecture": name, "attention": name, "revision": name}
    identity["corpus"]["files"] = [{"name": name, "num_bytes": 0, "sha256": "d" * 64}] * 7
    identity["targets"]["metadata"] = [name]
    identity["selection"] = {"kind": "topk", "note": name}
    return replace(manifest, identity=identity, teacher=name, created_by=name)


def structure_of(text: str) -> Iterator[str]:
    """Yield the kinds of elements that Markdown makes of a card."""
    for token in MarkdownIt("commonmark").enable("table").parse(DatasetCard(text).text):
        yield f"{token.type} {token.tag}"
        yield from (child.type for child in token.children or ())


def test_no_name_breaks_a_card(store: Store) -> None:
    plain = card_text(with_names(store.manifest, "plain"))
    hostile = card_text(with_names(store.manifest, HOSTILE))
    hostile.encode()
    assert list(structure_of(hostile)) == list(structure_of(plain))
    assert fields_of(hostile) == fields_of(plain)
    (store.root / CARD_NAME).write_text(hostile)
    write_card(store)
    assert read(store.root / CARD_NAME) == card_text(store.manifest)
    assert "a" * 201 not in card_text(with_names(store.manifest, "a" * 1000))


def test_what_people_wrote_stays(store: Store) -> None:
    card = store.root / CARD_NAME
    generated = read(card)
    edited = generated.replace("# license: apache-2.0", "license: mit  # of the targets")
    edited = edited.replace("tags:\n", "tags:\n- mine\n")
    edited = re.sub(r"not stated yet", "Apache-2.0", edited) + "\n## Thanks\n\nTo everybody.\n"
    card.write_text(edited.replace("# Soft targets of", "# Somebody's targets of"))
    write_card(store)
    assert read(card) == edited, "what is generated is back, the rest is as it was"
    assert unstated_licences(card) == ()

    without_configs = re.sub(r"^configs:\n.*?^---", "---", edited, flags=re.M | re.S)
    card.write_text(without_configs)
    write_card(store)
    fields = fields_of(read(card))
    assert fields["license"] == "mit"
    assert fields["tags"] == ["mine", "softtargets", "knowledge-distillation"]
    assert fields["configs"] == fields_of(generated)["configs"]
    assert read(card).endswith(edited.partition("\n---\n")[2])

    card.write_text("# My own page\n\nAbout nothing.\n")
    write_card(store)
    assert read(card).endswith(
        "<!-- softtargets:end description -->\n\n# My own page\n\nAbout nothing.\n"
    )
    assert fields_of(read(card))["configs"] == fields["configs"]


def test_windows_newlines_stay(store: Store) -> None:
    card = store.root / CARD_NAME
    card.write_bytes(card.read_bytes().replace(b"\n", b"\r\n"))
    write_card(store)
    text = read(card)
    assert text.count("softtargets:begin description") == 1
    assert text.count("configs:") == 1
    assert "## Licences\r\n" in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tags:\n", "tags: [\n", "expected YAML fields between two lines of ---"),
        ("---\n#", "---\n- list\n---\n#", "expected YAML fields"),
        ("---\n#", "---\n1: 2\n---\n#", "something else than names with values"),
        ("tags:\n", "a: &a [x]\nb: *a\ntags:\n", "an alias"),
        ("tags:\n", "a: " + "[" * 20_000 + "\ntags:\n", "more than 32 deep"),
        ("tags:\n", "a: !!python/name:os.system\ntags:\n", "a tag"),
        ("\n---\n", "\n", "no second line of ---"),
        ("softtargets:end description", "end", "found 1 and 0"),
        ("softtargets:begin measured", "softtargets:begin description", "found 2 and 1"),
    ],
)
def test_a_broken_card_is_an_error(store: Store, old: str, new: str, message: str) -> None:
    card = store.root / CARD_NAME
    broken = read(card).replace(old, new, 1)
    card.write_text(broken)
    with pytest.raises(FormatError, match=f"README.md: .*{message}"):
        write_card(store)
    assert read(card) == broken
    card.write_bytes(b"\xff")
    with pytest.raises(FormatError, match="expected text in UTF-8"):
        write_card(store)


def test_fields_may_be_called_as_the_hub_calls_its_methods(store: Store) -> None:
    card = store.root / CARD_NAME
    fields = "---\nto_dict: x\nget: y\nself: z\nlicense: mit\n---\n"
    card.write_text(fields + read(card).partition("\n---\n")[2])
    write_card(store)
    assert read(card).startswith("---\nto_dict: x\nget: y\nself: z\nlicense: mit\ntags:\n")
    assert "license, in the YAML" not in unstated_licences(card)


def test_a_byte_order_mark_goes(store: Store) -> None:
    card = store.root / CARD_NAME
    text = read(card)
    card.write_bytes(b"\xef\xbb\xbf" + text.encode())
    write_card(store)
    assert read(card) == text


def test_a_card_of_megabytes_is_refused(store: Store) -> None:
    card = store.root / CARD_NAME
    card.write_bytes(b"x" * 5_000_000)
    with pytest.raises(LimitError, match="SOFTTARGETS_MAX_CARD_BYTES=5000000"):
        write_card(store)
    mark = "<!-- softtargets:begin description -->\n"
    card.write_text(mark * 60_000)
    with pytest.raises(FormatError, match="found 60000 and 0"):
        write_card(store)


def test_licences_are_three(store: Store) -> None:
    card = store.root / CARD_NAME
    assert unstated_licences(card) == (
        "license, in the YAML", "these targets", "the teacher", "the corpus",
    )  # fmt: skip
    told = run("card", store.root)
    assert "does not state the licence yet: license, in the YAML; these targets;" in told.output
    card.write_text(read(card).replace("**The teacher**: not stated yet", "**The teacher**: MIT"))
    assert "the teacher" not in unstated_licences(card)


def test_a_store_made_from_a_store_has_a_card_of_its_own(store: Store, tmp_path: Path) -> None:
    part = filter_store(store.root, tmp_path / "part", trained_only=True)
    text = read(part.root / CARD_NAME)
    assert part.fingerprint in text
    assert f"filter of the store `{store.fingerprint}`" in text


def test_cards_are_a_function_of_the_manifest(store: Store, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    again = build_store(tmp_path / "again")
    assert read(again.root / CARD_NAME) == read(store.root / CARD_NAME) == card_text(store.manifest)


@pytest.mark.slow
def test_what_was_measured_becomes_a_table(tmp_path: Path, tiny_teacher: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    root = tmp_path / "store"
    built = run(
        "build", "--teacher", tiny_teacher, "--input", corpus, "--output", root,
        "--top-k", "8", "--sequence-length", "16",
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    card, before = root / CARD_NAME, read(root / CARD_NAME)
    found = run("verify", root, "--rescore", "3", "--teacher", tiny_teacher, "--json")
    assert found.exit_code == 0, found.output
    measured = tmp_path / "measured.json"
    measured.write_text(found.stdout)
    [one] = parse_object(measured.read_bytes(), "here")["rescored"]["temperatures"]
    assert one["holds"]
    assert run("card", root, "--fidelity", measured).exit_code == 0
    numbers = (one["stored"]["largest"], one["live"]["largest"], one["bound"])
    assert f"| 1 | {' | '.join(f'{number:.4f}' for number in numbers)} |" in read(card)
    assert "Nothing was measured yet" not in read(card)
    with_table = read(card)
    write_card(Store.open(root))
    assert read(card) == with_table, "a card that is renewed keeps it"
    assert before.partition("softtargets:begin measured")[0] in with_table

    (tmp_path / "other").mkdir()
    other = build_store(tmp_path / "other")
    with pytest.raises(IdentityError, match="Another store was measured"):
        write_card(other, measured)
    plain = run("verify", root, "--json")
    measured.write_text(plain.stdout)
    assert json.loads(plain.stdout)["is_sound"]
    with pytest.raises(FormatError, match="expected what 'softtargets verify --rescore N"):
        write_card(Store.open(root), measured)


def test_only_a_local_store_has_its_card_written(store: Store) -> None:
    with pytest.raises(InputError, match="expected a store in a directory of this machine"):
        write_card(Store.open("local://" + str(store.root)))
