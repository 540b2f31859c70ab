"""A store of pairs by the command line, and by every trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from transformers import AutoModelForSeq2SeqLM

from softtargets.capture import Corpus, Windowing, build
from softtargets.errors import InputError
from softtargets.store import Store
from softtargets.stream import SoftTargetDataset, repack
from softtargets.train import DistillationObjective, StudentWithObjective
from tests.commands import run
from tests.tasks.translators import (
    FAMILIES,
    PAIRS,
    POSITIONS,
    pair_config,
    save_pairs,
    save_translator,
    translator,
)
from tests.train import runs

SELECTIONS = {
    "topk": ("--select", "topk", "--top-k", "8"),
    "threshold": ("--select", "threshold", "--draws", "9"),
    "hybrid": ("--select", "hybrid", "--top-k", "4", "--draws", "8"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_translator(tmp_path_factory.mktemp("model"))


def pair_options(model: Path, corpus: Path, *more: str | Path) -> list[str | Path]:
    """Return options of a build of pairs."""
    return [
        "--teacher", model, "--input", corpus, "--text-field", "en", "--target-field", "de",
        "--dtype", "float32", *more,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("selection", sorted(SELECTIONS))
def test_every_command_takes_a_store_of_pairs(tmp_path: Path, model: Path, selection: str) -> None:
    path, corpus = tmp_path / "store", save_pairs(tmp_path / "pairs.jsonl")
    options = pair_options(
        model, corpus, "--unit-tokens", "100", "--temperature", "1", "--temperature", "2",
        *SELECTIONS[selection],
    )  # fmt: skip
    planned = json.loads(run("plan", *options, "--json").output)
    built = run("build", *options, "--output", path)
    assert built.exit_code == 0, built.output
    store = Store.open(path)
    assert (planned["fingerprint"], planned["num_targets"]) == (
        store.fingerprint,
        store.num_positions,
    )
    assert store.manifest.identity["seq2seq"] == {"target_field": "de"}
    verified = run("verify", path, "--rescore", "50", "--teacher", model, "--json")
    assert verified.exit_code == 0, verified.output
    rescored = json.loads(verified.output)["rescored"]
    assert rescored["num_windows"] == len(store) == len(PAIRS)
    assert [one["holds"] for one in rescored["temperatures"]] == [True, True]
    assert json.loads(run("info", path, "--json").output)["fingerprint"] == store.fingerprint
    shown = run("inspect", path)
    assert "the encoder read: Alice·was·beginning" in shown.output
    page = tmp_path / "page.html"
    assert run("report", path, "--output", page).exit_code == 0
    assert page.stat().st_size > 10_000
    parts = tmp_path / "train", tmp_path / "held"
    split = run("split", path, "--train", parts[0], "--validation", parts[1], "--fraction", "0.4")
    assert split.exit_code == 0, split.output
    save_pairs(corpus, [(source.replace("Alice", "A fish"), target) for source, target in PAIRS])
    assert run("build", *options, "--output", tmp_path / "other").exit_code == 0
    merged = run("merge", path, tmp_path / "other", "--output", tmp_path / "merged")
    assert merged.exit_code == 0, merged.output
    kept = run("filter", tmp_path / "merged", "--trained-only", "--output", tmp_path / "filtered")
    assert kept.exit_code == 0, kept.output
    found = {one.window_id for one in Store.open(tmp_path / "filtered")}
    assert found > {one.window_id for one in store}
    plain = run("export", path, tmp_path / "plain.parquet", "--to", "plain")
    assert plain.exit_code == 0, plain.output
    rows = load_dataset(str(path), split="train", cache_dir=str(tmp_path / "cache"))
    for row, window in zip(rows, store, strict=True):
        assert window.encoder_ids_M is not None
        assert row["encoder_input_ids"] == window.encoder_ids_M.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_target_is_what_the_decoder_reads_from_its_start_to_its_end(
    tmp_path: Path, family: str
) -> None:
    """As transformers makes it of labels, with the last label, which nothing follows."""
    teacher = translator(save_translator(tmp_path / family, family))
    store = build(pair_config(tmp_path), teacher).store
    tokenizer: Any = teacher.tokenizer._tokenizer
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / family)
    for window, (source, target) in zip(store, PAIRS, strict=True):
        labels = tokenizer(text_target=target, return_tensors="pt")["input_ids"]
        shifted = loaded.prepare_decoder_input_ids_from_labels(labels)
        assert window.input_ids_L.tolist() == [*shifted[0].tolist(), tokenizer.eos_token_id]
        assert window.labels_T.tolist() == labels[0].tolist()
        assert window.encoder_ids_M is not None
        assert window.encoder_ids_M.tolist() == tokenizer(source)["input_ids"]


@pytest.mark.slow
def test_a_window_is_another_one_with_another_source_or_prefix(tmp_path: Path, model: Path) -> None:
    corpus = save_pairs(tmp_path / "pairs.jsonl", [(PAIRS[0][0], "Ja."), (PAIRS[1][0], "Ja.")])
    options = pair_options(model, corpus, "--top-k", "8", "--output", tmp_path / "store")
    assert run("build", *options).exit_code == 0
    assert len(Store.open(tmp_path / "store")) == 2
    again = run("build", *options, "--source-prefix", "translate: ")
    assert again.exit_code == 1
    assert "field seq2seq.source_prefix" in again.output


@pytest.mark.slow
def test_what_is_too_long_is_refused_or_cut_and_counted(tmp_path: Path, model: Path) -> None:
    long = "so " * POSITIONS
    pairs = [PAIRS[0], (long, "Ja."), ("Yes.", long)]
    corpus = save_pairs(tmp_path / "pairs.jsonl", pairs)
    options = pair_options(model, corpus, "--top-k", "8")
    for place, what in ((1, "source"), (2, "target")):
        save_pairs(corpus, [pairs[0], pairs[place]])
        result = run("build", *options, "--output", tmp_path / "store")
        assert result.exit_code == 1
        expected = f"line 2, its {what}: expected at most {POSITIONS} tokens"
        assert expected in result.output
        assert not (tmp_path / "store").exists() or not list((tmp_path / "store").glob("shards/*"))
    save_pairs(corpus, pairs)
    assert (
        run("build", *options, "--output", tmp_path / "kept", "--on-invalid", "skip").exit_code == 0
    )
    assert Store.open(tmp_path / "kept").manifest.corpus["invalid_documents"] == 2
    cut = run("build", *options, "--output", tmp_path / "cut", "--window", "truncate")
    assert cut.exit_code == 0, cut.output
    store = Store.open(tmp_path / "cut")
    tokenizer: Any = translator(model).tokenizer._tokenizer
    of_source = len(tokenizer(long)["input_ids"]) - POSITIONS
    assert store.manifest.corpus["truncated_source_tokens"] == of_source
    # The decoder reads the token that it begins with beside them.
    assert store.manifest.corpus["truncated_target_tokens"] == of_source + 1
    assert store.manifest.corpus["truncated_tokens"] == 2 * of_source + 1
    assert f"{of_source + 1} of them of targets" in " ".join(cut.output.split())
    last = list(store)[-1]
    assert len(last) == POSITIONS
    assert last.input_ids_L[-1] == tokenizer.eos_token_id


BAD: dict[str, tuple[list[Any], tuple[str, ...], str]] = {
    "no target": ([{"en": "Yes."}], (), "line 1: expected a string in field 'de', the second text"),
    "empty source": ([{"en": " ", "de": "Ja."}], (), "field 'en': expected a text with at least"),
    "empty target": ([{"en": "Yes.", "de": ""}], (), "field 'de': expected a text with at least"),
    "a number": ([{"en": "Yes.", "de": 7}], (), "found a int there"),
    "packed": ([{"en": "Yes.", "de": "Ja."}], ("--window", "pack"), "--window pack: expected"),
    "overlap": ([{"en": "Yes.", "de": "Ja."}], ("--overlap", "3"), "--overlap: expected an option"),
    "language": (
        [{"en": "Yes.", "de": "Ja."}], ("--target-language", "de_DE"),
        "--target-language: expected a tokenizer of several languages",
    ),
    "task": (
        [{"en": "Yes.", "de": "Ja."}], ("--task", "causal-lm"),
        "--target-field: expected an option of the task causal-lm",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_input_gets_one_paragraph(tmp_path: Path, model: Path, name: str) -> None:
    records, more, expected = BAD[name]
    corpus = tmp_path / "pairs.jsonl"
    corpus.write_text("".join(json.dumps(one) + "\n" for one in records))
    result = run("build", *pair_options(model, corpus, *more, "--output", tmp_path / "store"))
    assert result.exit_code == 1
    assert expected in result.output.splitlines()[-1]


def test_a_text_file_has_no_target(tmp_path: Path, model: Path) -> None:
    corpus = tmp_path / "text.txt"
    corpus.write_text("Yes.")
    result = run("build", *pair_options(model, corpus, "--output", tmp_path / "store"))
    assert "expected a source and a target; found a file without fields" in result.output


def test_a_tokenizer_that_never_ends_a_target_is_refused(tmp_path: Path) -> None:
    model = save_translator(tmp_path / "model", template="$A")
    corpus = save_pairs(tmp_path / "pairs.jsonl")
    result = run("build", *pair_options(model, corpus, "--output", tmp_path / "store"))
    assert result.exit_code == 1
    assert "ends a target with the token that ends a text" in result.output


@pytest.mark.slow
def test_windows_of_pairs_share_no_row(tmp_path: Path, model: Path) -> None:
    store = build(pair_config(tmp_path), translator(model)).store
    batch = next(iter(SoftTargetDataset(store, batch_size=4)))
    with pytest.raises(InputError, match="windows of tokens alone"):
        repack(batch, 64)


@pytest.mark.slow
def test_a_pair_is_scored_alike_alone_and_among_others(tmp_path: Path, model: Path) -> None:
    config = pair_config(tmp_path, windowing=Windowing(sequence_length=64), batch_tokens=1000)
    together = build(config, translator(model)).store
    alone = tmp_path / "alone"
    alone.mkdir()
    corpus = Corpus(paths=(save_pairs(alone / "one.jsonl", PAIRS[1:2]),), text_field="en")
    [window] = build(pair_config(alone, corpus=corpus), translator(model)).store
    other = together[window.window_id]
    assert (window.targets.logits_TK - other.targets.logits_TK).__abs__().max() < 1e-4


TRAINERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (runs.train_plain, {}),
    "torchdata": (runs.train_torchdata, {}),
    "accelerate": (runs.train_accelerate, {"fused": True}),
    "hf": (runs.train_hf, {}),
    "trl": (runs.train_trl, {}),
    "lightning": (runs.train_lightning, {}),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but:UserWarning")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is:FutureWarning")
@pytest.mark.parametrize("name", sorted(TRAINERS))
def test_every_trainer_takes_a_step(
    name: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, how = TRAINERS[name]
    if how:
        # Other families add to the logits after their output head, and no loss can be fused.
        model = save_translator(tmp_path / "T5", "T5", tie_word_embeddings=False)
    store = build(pair_config(tmp_path), translator(model)).store

    def make_student() -> Any:
        return AutoModelForSeq2SeqLM.from_pretrained(model).train()

    def weights() -> list[float]:
        parameters = make_student().parameters()
        return [float(one.detach().double().sum()) for one in parameters]

    monkeypatch.setattr(runs, "make_student", make_student)
    found = train(str(store.root), str(tmp_path), stop=1, **how)
    assert found["weights"] != weights()
    if not how:
        assert len(found["steps"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Marian", "Bart"])
def test_a_head_with_a_bias_added_after_it_is_not_fused(tmp_path: Path, family: str) -> None:
    """transformers adds it to the logits, where no fused loss sees it."""
    model = save_translator(tmp_path / family, family)
    store = build(pair_config(tmp_path), translator(model)).store
    student = AutoModelForSeq2SeqLM.from_pretrained(model)
    student.final_logits_bias.normal_()
    batch = next(iter(SoftTargetDataset(store, batch_size=4)))
    with pytest.raises(InputError, match="changes its logits after its output head"):
        StudentWithObjective(student, DistillationObjective(fused=True))(batch)
