"""Copies of texts: words that the model thinks likely, drawn by text, seed and copy alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForMaskedLM

from softtargets.capture import Corpus, build
from softtargets.cli.main import main
from softtargets.errors import InputError
from softtargets.tasks.masked_lm.augmentation import Augmentation, Augmenter
from softtargets.tasks.masked_lm.masked_teacher import MaskedTeacher
from tests.tasks.masked import masked_config, masked_teacher, save_masked_model

TEXT = "So she was considering, and she was very tired"


@pytest.fixture(scope="module", params=["Bert", "Roberta"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_masked_model(tmp_path_factory.mktemp("mlm"), request.param)


def copies_of(teacher: MaskedTeacher, text: str = TEXT, **options: Any) -> list[str]:
    return list(Augmenter(teacher, Augmentation(**options)).copies(text))


@pytest.mark.slow
def test_every_word_of_one_token_becomes_the_likeliest_other(model: Path) -> None:
    """Compared with the model itself, word by word."""
    teacher = masked_teacher(model)
    [copy] = copies_of(teacher, copies=1, probability=1.0, candidates=1)
    ids, words = teacher.tokenizer.encode_words(TEXT, None)
    assert words
    mask = teacher.tokenizer.special_ids().mask
    assert mask is not None
    network = AutoModelForMaskedLM.from_pretrained(model).eval()
    expected, end = "", 0
    tokens = teacher.tokenizer.vocabulary()
    known = dict(zip(tokens.ids_N.tolist(), tokens.utf8, strict=True))
    for place, start, stop in words:
        read = torch.tensor([ids])
        read[0, place] = mask
        with torch.inference_mode():
            order = network(read).logits[0, place].argsort(descending=True).tolist()
        candidates = (
            known[one].decode("utf-8", "replace").strip()
            for one in order
            if one in known
            and known[one] is not None
            and known[one][:1].isspace()
            and one != ids[place]
        )
        word = next(one for one in candidates if one.isalpha())
        expected += TEXT[end:start] + word
        end = stop
    assert copy == expected + TEXT[end:]
    assert copy != TEXT


@pytest.mark.slow
def test_copies_are_a_function_of_text_seed_and_number(model: Path) -> None:
    teacher = masked_teacher(model)
    three = copies_of(teacher, copies=3)
    assert copies_of(teacher, copies=5)[:3] == three
    assert copies_of(teacher, copies=3, seed=1) != three
    assert copies_of(teacher, copies=2, probability=0.0) == [TEXT, TEXT]


@pytest.mark.slow
def test_the_share_of_replaced_words_is_the_probability(model: Path) -> None:
    teacher = masked_teacher(model)
    found = copies_of(teacher, copies=400, candidates=1)
    [full] = copies_of(teacher, copies=1, probability=1.0, candidates=1)
    words = TEXT.split()
    changed = sum(a != b for one in found for a, b in zip(one.split(), words, strict=True))
    at_most = sum(a != b for a, b in zip(full.split(), words, strict=True))
    assert changed / (400 * at_most) == pytest.approx(0.4, abs=0.04)


@pytest.mark.slow
def test_the_command_writes_a_corpus_that_is_built_from(model: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "labelled.jsonl", tmp_path / "augmented.jsonl"
    source.write_text(json.dumps({"text": TEXT, "label": "\u00e4", "id": 7}) + "\n")
    command = ["augment", "--teacher", str(model), "--input", str(source)]
    options = ["--copies", "3", "--dtype", "float32", "--device", "cpu"]
    done = CliRunner().invoke(main, [*command, "--output", str(output), *options])
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [one["text"] for one in records] == [TEXT, *copies_of(masked_teacher(model), copies=3)]
    assert {(one["label"], one["id"]) for one in records} == {("\u00e4", 7)}
    config = masked_config(tmp_path, corpus=Corpus(paths=(output,)))
    assert len(build(config, masked_teacher(model)).store) > 1
    again = CliRunner().invoke(main, [*command, "--output", str(output), *options])
    assert again.exit_code == 1 and "nothing yet" in again.output
    source.write_text("[1]\n")
    broken = CliRunner().invoke(main, [*command, "--output", str(tmp_path / "no"), *options])
    assert broken.exit_code == 1 and "line 1" in broken.output
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "options", [{"copies": 0}, {"probability": 1.5}, {"candidates": 0}, {"seed": -1}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(options))}: expected"):
        Augmentation(**options).check()
