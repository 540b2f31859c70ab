"""Tokenizers of several languages: told which, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

from softtargets.store import Store
from tests.commands import run
from tests.tasks.translators import PAIRS, save_pairs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with the tokenizer of NLLB, which puts the language before a text."""
    directory = tmp_path_factory.mktemp("languages")
    letters = sorted({letter for pair in PAIRS for text in pair for letter in text} - {" "})
    names = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", *letters]
    tokenizer = NllbTokenizer(vocab={name: place for place, name in enumerate(names)}, merges=[])
    torch.manual_seed(0)
    config = M2M100Config(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
        decoder_ffn_dim=48, max_position_embeddings=128, pad_token_id=1, eos_token_id=2,
        decoder_start_token_id=2,
    )  # fmt: skip
    M2M100ForConditionalGeneration(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def fields(model: Path, tmp_path: Path) -> list[str | Path]:
    return [
        "--teacher", model, "--input", save_pairs(tmp_path / "pairs.jsonl"), "--dtype", "float32",
        "--text-field", "en", "--target-field", "de",
    ]  # fmt: skip


@pytest.mark.slow
def test_texts_are_read_and_written_in_the_languages_that_are_named(
    model: Path, tmp_path: Path
) -> None:
    named = ["--source-language", "eng_Latn", "--target-language", "deu_Latn"]
    path = tmp_path / "store"
    built = run("build", *fields(model, tmp_path), *named, "--top-k", "4", "--output", path)
    assert built.exit_code == 0, built.output
    store = Store.open(path)
    tokenizer = NllbTokenizer.from_pretrained(model)
    english, german = tokenizer.convert_tokens_to_ids(["eng_Latn", "deu_Latn"])
    for window in store:
        assert window.encoder_ids_M is not None
        assert window.encoder_ids_M[0] == english
        assert window.input_ids_L[:2].tolist() == [2, german]
        assert window.input_ids_L[-1] == 2
    assert store.manifest.identity["seq2seq"]["target_language"] == "deu_Latn"
    verified = run("verify", path, "--rescore", "9", "--teacher", model)
    assert verified.exit_code == 0, verified.output
    own = tmp_path / "own.jsonl"
    options = ["--num-beams", "1", "--max-new-tokens", "4", "--output", own]
    generated = run("generate", *fields(model, tmp_path), *named, *options)
    assert generated.exit_code == 0, generated.output
    for line in own.read_text().splitlines():
        assert json.loads(line)["num_tokens"] == 4
    about = json.loads((tmp_path / "own.jsonl.json").read_text())
    assert about["generation"]["settings"]["forced_bos_token_id"] == german


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "--target-language: expected one of the tokenizer's languages; found none"),
        (
            ("--target-language", "de"),
            "--target-language: expected a language as the tokenizer calls it; found de",
        ),
    ],
)
def test_a_language_that_is_missing_or_unknown_is_said(
    model: Path, tmp_path: Path, options: tuple[str, ...], expected: str
) -> None:
    for command in ("build", "generate"):
        path = tmp_path / "out"
        result = run(command, *fields(model, tmp_path), *options, "--output", path)
        assert result.exit_code == 1
        assert expected in result.output
        assert not path.exists()
