"""A masked store by the command line, and by every trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from transformers import AutoModelForMaskedLM

from softtargets.capture import build
from softtargets.store import Store
from tests.commands import run
from tests.fakes import TEXTS, write_corpus
from tests.tasks.masked import masked_config, masked_teacher, save_masked_model
from tests.train import runs

SELECTIONS = {
    "topk": ("--select", "topk", "--top-k", "8"),
    "threshold": ("--select", "threshold", "--draws", "9"),
    "hybrid": ("--select", "hybrid", "--top-k", "4", "--draws", "8"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_masked_model(tmp_path_factory.mktemp("model"), "Bert")


@pytest.mark.slow
@pytest.mark.parametrize("selection", sorted(SELECTIONS))
def test_every_command_takes_a_masked_store(tmp_path: Path, model: Path, selection: str) -> None:
    path, corpus = tmp_path / "store", write_corpus(tmp_path / "corpus.jsonl")
    options: list[str | Path] = [
        "--teacher", model, "--input", corpus, "--sequence-length", "24", "--dtype", "float32",
        "--unit-tokens", "100", "--temperature", "1", "--temperature", "2", "--maskings", "3",
        "--mask-probability", "0.3", "--whole-words", *SELECTIONS[selection],
    ]  # fmt: skip
    planned = json.loads(run("plan", *options, "--json").output)
    built = run("build", *options, "--output", path)
    assert built.exit_code == 0, built.output
    store = Store.open(path)
    assert (planned["fingerprint"], planned["num_targets"]) == (
        store.fingerprint,
        store.num_positions,
    )
    assert store.manifest.identity["masking"] == {
        "probability": 0.3, "maskings": 3, "seed": 0, "whole_words": True
    }  # fmt: skip
    verified = run("verify", path, "--rescore", "50", "--teacher", model, "--json")
    assert verified.exit_code == 0, verified.output
    rescored = json.loads(verified.output)["rescored"]
    assert rescored["num_windows"] == len(store)
    assert [one["holds"] for one in rescored["temperatures"]] == [True, True]
    assert json.loads(run("info", path, "--json").output)["fingerprint"] == store.fingerprint
    shown = run("inspect", path)
    assert "said of what belongs in its place" in shown.output
    assert "label" in shown.output
    page = tmp_path / "page.html"
    assert run("report", path, "--output", page).exit_code == 0
    assert page.stat().st_size > 10_000
    parts = tmp_path / "train", tmp_path / "held"
    split = run("split", path, "--train", parts[0], "--validation", parts[1], "--fraction", "0.4")
    assert split.exit_code == 0, split.output
    corpus.write_text(corpus.read_text().replace("Alice", "a fish"))
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
    assert [row["label_ids"] for row in rows] == [one.labels_T.tolist() for one in store]


@pytest.mark.slow
def test_a_store_of_other_masks_is_another_store(tmp_path: Path, model: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    options: list[str | Path] = ["--teacher", model, "--input", corpus, "--sequence-length", "24"]
    options += ["--top-k", "8", "--output", tmp_path / "store"]
    assert run("build", *options).exit_code == 0
    again = run("build", *options, "--mask-seed", "1")
    assert again.exit_code == 1
    assert "field masking.seed" in again.output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "--sequence-length: expected at most 32, as many tokens as "),
        (("--sequence-length", "24", "--mask-probability", "2"), "--mask-probability: expected ab"),
        (("--task", "causal-lm", "--maskings", "2"), "--maskings: expected an option of the task"),
    ],
)
def test_a_wrong_option_gets_one_paragraph_and_nothing_is_written(
    tmp_path: Path, model: Path, options: tuple[str, ...], expected: str
) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", TEXTS)
    path = tmp_path / "store"
    result = run("build", "--teacher", model, "--input", corpus, "--output", path, *options)
    assert result.exit_code == 1
    error = result.output.splitlines()[-1]
    assert error.startswith(f"Error: {expected}")
    assert not path.exists()


@pytest.mark.slow
def test_fidelity_and_other_layouts_say_that_they_do_not_take_it(
    tmp_path: Path, model: Path
) -> None:
    store = build(masked_config(tmp_path), masked_teacher(model)).store
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    of_store: list[str | Path] = [store.root, "--teacher", model]
    of_teacher: list[str | Path] = [model, "--input", corpus]
    for arguments in (of_store, of_teacher):
        result = run("fidelity", *arguments, "--output", tmp_path / "fidelity")
        assert result.exit_code == 1
        assert "a teacher of the task causal-lm; found one of masked-lm" in result.output
        assert not (tmp_path / "fidelity").exists()
    exported = run("export", store.root, tmp_path / "axolotl", "--to", "axolotl")
    assert exported.exit_code == 1
    assert not (tmp_path / "axolotl").exists()


TRAINERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (runs.train_plain, {}),
    "torchdata": (runs.train_torchdata, {}),
    "accelerate": (runs.train_accelerate, {"fused": True}),
    "hf": (runs.train_hf, {"fused": True}),
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
    store = build(masked_config(tmp_path), masked_teacher(model)).store

    def make_student() -> Any:
        return AutoModelForMaskedLM.from_pretrained(model).train()

    def weights() -> list[float]:
        parameters = make_student().parameters()
        return [float(one.detach().double().sum()) for one in parameters]

    monkeypatch.setattr(runs, "make_student", make_student)
    train, how = TRAINERS[name]
    found = train(str(store.root), str(tmp_path), stop=1, **how)
    assert found["weights"] != weights()
    if not how:
        assert len(found["steps"]) == 1
