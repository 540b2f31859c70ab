"""Encoder-decoders are trained by the same command."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSeq2SeqLM, MarianConfig

from softtargets.capture import build
from softtargets.errors import SoftTargetsError
from softtargets.runs import TrainSettings, prepare, train
from softtargets.store import Store
from tests.runs.conftest import short_training
from tests.runs.test_training import StoppedError, same, stop_after, weights_of
from tests.tasks.translators import pair_config, save_translator, translator

Make = Callable[..., TrainSettings]


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_translator(tmp_path_factory.mktemp("marian"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, marian: Path) -> Store:
    return build(pair_config(tmp_path_factory.mktemp("pairs")), translator(marian)).store


@pytest.fixture
def settings(store: Store, marian: Path, tmp_path: Path) -> Make:
    """Return a training of a smaller model from scratch, with changes."""
    config = MarianConfig.from_pretrained(marian)
    config.encoder_layers = config.decoder_layers = 1
    config.save_pretrained(tmp_path / "thin")
    options: dict[str, Any] = {"student": str(tmp_path / "thin" / "config.json")}
    return partial(short_training, store, marian, tmp_path / "run", **options)


@pytest.mark.slow
def test_a_student_is_nearer_to_the_teacher_than_its_twin(settings: Make, tmp_path: Path) -> None:
    run = prepare(settings(steps=40, learning_rate=3e-3, baseline=True))
    results = train(run).results
    before, after, baseline = (results[row] for row in ("before", "after", "baseline"))
    assert list(after) == ["kl", "cross_entropy", "agreement", "accuracy"]
    assert after["kl"] < before["kl"]
    assert after["kl"] < baseline["kl"]
    trained = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run")
    assert trained.config.decoder_layers == 1


@pytest.mark.slow
def test_the_teacher_is_its_own_student(settings: Make, marian: Path) -> None:
    results = train(prepare(settings(student=str(marian), steps=1))).results
    assert abs(results["before"]["kl"]) < 1e-5
    assert results["before"]["agreement"] == 1.0


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_with_the_same_weights(settings: Make, tmp_path: Path) -> None:
    whole = train(prepare(settings(output=tmp_path / "whole")))
    with pytest.raises(StoppedError):
        train(prepare(settings()), stop_after(7))
    assert train(prepare(settings())).results == whole.results
    assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))


@pytest.mark.slow
def test_what_does_not_fit_is_said_before_anything_is_written(
    settings: Make, marian: Path, llama: Path, tmp_path: Path
) -> None:
    few = MarianConfig.from_pretrained(marian, vocab_size=50, decoder_vocab_size=50)
    few.save_pretrained(tmp_path / "few")
    for student, said in (
        ("teacher[depth=1]", "a model with one list of layers, .*; found MarianMTModel with 2"),
        (str(tmp_path / "few" / "config.json"), "at least the teacher's 333 outputs; found 50"),
        (str(llama), "a model that AutoModelForSeq2SeqLM makes"),
    ):
        with pytest.raises(SoftTargetsError, match=said) as caught:
            prepare(settings(student=student, tokenizer=str(marian)))
        assert caught.value.next_step
        assert not (tmp_path / "run").exists()
