"""A run writes a student that transformers loads, goes on where it stopped, and refuses others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from softtargets import SoftTargetDataset, Store, distillation_loss, student_inputs
from softtargets.errors import IdentityError, InputError, SoftTargetsError, StoreError
from softtargets.runs import TrainProgress, TrainSettings, prepare, train
from softtargets.runs.model_push import push_student
from softtargets.runs.student_model import PRETRAINED_RATE, SCRATCH_RATE
from softtargets.store.derivation import split_store
from tests.fakes import byte_tokenizer
from tests.hub import run_hub
from tests.runs.conftest import NUM_LAYERS

Make = Callable[..., TrainSettings]


class StoppedError(Exception):
    """As a machine that is taken away."""


def stop_after(step: int) -> Callable[[str, TrainProgress], None]:
    def stop(_: str, progress: TrainProgress) -> None:
        if progress.step == step:
            raise StoppedError

    return stop


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def same(first: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return first.keys() == other.keys() and all(
        torch.equal(value, other[name]) for name, value in first.items()
    )


@pytest.mark.slow
@pytest.mark.usefixtures("plots")
def test_a_run_writes_a_student_that_loads_and_is_nearer_to_the_teacher(
    settings: Make, taught: Store, tmp_path: Path
) -> None:
    run = prepare(settings(baseline=True, learning_rate=1e-2, steps=40))
    seen: list[tuple[str, TrainProgress]] = []
    result = train(run, lambda name, progress: seen.append((name, progress)))
    before, after, baseline = (result.results[row] for row in ("before", "after", "baseline"))
    assert after["kl"] < 0.8 * before["kl"]
    assert after["kl"] < baseline["kl"]
    assert baseline["cross_entropy"] < after["cross_entropy"]
    assert after["agreement"] > max(before["agreement"], baseline["agreement"])
    output = tmp_path / "run"
    student = AutoModelForCausalLM.from_pretrained(output).eval()
    assert student.config.num_hidden_layers == 2
    assert student.config.use_cache
    assert len(AutoTokenizer.from_pretrained(output)) == 256
    # The figures are those of the student that was saved, on the documents that were held out.
    _, held = taught.split(0.2, 0)
    total, number = 0.0, 0
    for batch in SoftTargetDataset(held, batch_size=5):
        logits = student(**student_inputs(batch)).logits.detach()
        total += float(distillation_loss(logits, batch, num_targets=1.0))
        number += batch["num_targets"]
    assert after["kl"] == pytest.approx(total / number, rel=1e-4)
    assert {name for name, _ in seen} == {"soft-targets", "labels"}
    assert [one.step for _, one in seen] == [*range(1, 41)] * 2
    assert seen[39][1].loss is not None
    card = (output / "README.md").read_text()
    assert taught.fingerprint in card
    assert f"{after['kl']:.4f}" in card
    state = json.loads((output / "train.json").read_text())
    assert state["results"]["after"] == after
    assert state["decides"]["learning_rate"] == 1e-2
    log = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [one["step"] for one in log if "loss" in one] == list(range(1, 41))
    assert [one["step"] for one in log if "eval_kl" in one] == [8, 16, 24, 32, 40]
    assert (output / "training.png").read_bytes().startswith(b"\x89PNG")
    # The same command again does nothing.
    again = train(prepare(settings(baseline=True, learning_rate=1e-2, steps=40)), stop_after(1))
    assert again.was_finished
    assert again.results == result.results


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(2, 7), (10,)])
def test_a_run_that_is_stopped_ends_with_the_same_weights(
    settings: Make, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    options: dict[str, Any] = {"batch_size": 2, "global_batch_size": 6, "learning_rate": 1e-2}
    whole = train(prepare(settings(output=tmp_path / "whole", **options)))
    for step in stops:
        with pytest.raises(StoppedError):
            train(prepare(settings(**options)), stop_after(step))
        assert not (tmp_path / "run" / "model.safetensors").exists()
        assert (tmp_path / "run" / "log.jsonl").exists() == (step > 3)
    resumed = train(prepare(settings(**options)))
    assert resumed.results == whole.results
    assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))
    first = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(one)["step"] for one in first if '"loss"' in one] == list(range(1, 11))


@pytest.mark.slow
def test_a_checkpoint_that_was_cut_off_is_not_taken(settings: Make, tmp_path: Path) -> None:
    whole = train(prepare(settings(output=tmp_path / "whole")))
    with pytest.raises(StoppedError):
        train(prepare(settings()), stop_after(8))
    state = tmp_path / "run" / "checkpoints" / "checkpoint-6" / "trainer_state.json"
    state.write_text(state.read_text()[:50])
    assert train(prepare(settings())).results == whole.results


@pytest.mark.slow
def test_a_twin_that_is_stopped_goes_on(settings: Make, tmp_path: Path) -> None:
    def stop(name: str, progress: TrainProgress) -> None:
        if (name, progress.step) == ("labels", 5):
            raise StoppedError

    train(prepare(settings()))
    # One that is asked for later is added, and here is stopped.
    with pytest.raises(StoppedError):
        train(prepare(settings(baseline=True)), stop)
    found = train(prepare(settings(baseline=True)))
    whole = train(prepare(settings(output=tmp_path / "whole", baseline=True)))
    assert found.results == whole.results


@pytest.mark.slow
def test_another_run_is_refused_unless_it_is_to_begin_anew(
    settings: Make, taught: Store, tmp_path: Path
) -> None:
    train(prepare(settings(steps=4)))
    before = weights_of(tmp_path / "run")
    for changes, field in (
        ({"evaluation_share": 0.5}, "evaluation"),
        ({"student": "teacher[depth=3]"}, "student"),
        ({"global_batch_size": 8}, "global_batch_size"),
        ({"temperature": 2.0}, "temperature"),
        ({"arguments": {"weight_decay": 0.1}}, "set"),
        ({"seed": 1}, "seed"),
    ):
        with pytest.raises(InputError, match=rf"train.json, {field}: .* or --fresh to begin anew"):
            prepare(settings(**{"steps": 4, **changes}))
    # How the same step is computed may change.
    again = prepare(settings(steps=4, batch_size=2, global_batch_size=4, keep=1))
    assert train(again).was_finished
    with pytest.raises(StoppedError):
        train(prepare(settings(steps=4, seed=1, fresh=True)), stop_after(1))
    assert {one.name for one in (tmp_path / "run").iterdir() if one.is_file()}.isdisjoint(
        {"model.safetensors", "README.md", "log.jsonl"}
    )
    assert not train(prepare(settings(steps=4, seed=1))).was_finished
    assert not same(weights_of(tmp_path / "run"), before)


@pytest.mark.slow
def test_what_else_is_in_the_directory_is_left_alone(settings: Make, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(StoreError, match="Choose another --output"):
            prepare(settings(fresh=fresh))
    assert [one.name for one in (tmp_path / "run").iterdir()] == ["letter.txt"]


@pytest.mark.slow
def test_students_are_made_of_models_and_configurations(
    settings: Make, llama: Path, tmp_path: Path
) -> None:
    assert prepare(settings()).learning_rate == SCRATCH_RATE
    assert (
        prepare(settings(student=f"teacher[depth={NUM_LAYERS}]")).learning_rate == PRETRAINED_RATE
    )
    pretrained = prepare(settings(student=str(llama)))
    assert pretrained.learning_rate == PRETRAINED_RATE
    assert pretrained.student.num_bytes == 4 * pretrained.student.num_parameters
    small = LlamaConfig(
        vocab_size=300, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1,
    )  # fmt: skip
    small.save_pretrained(tmp_path / "small")
    scratch = settings(student=str(tmp_path / "small" / "config.json"), steps=2)
    run, other = prepare(scratch), prepare(scratch)
    assert run.learning_rate == SCRATCH_RATE
    assert same(run.student.model.state_dict(), other.student.model.state_dict())
    train(run)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run").config.hidden_size == 8


def bad_students(llama: Path, directory: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """Return options that do not fit, and what is said of them."""
    small: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8}
    small |= {"num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaConfig(vocab_size=299, **small).save_pretrained(directory / "narrow")
    shutil.copytree(llama, directory / "strange")
    vocabulary = json.loads((directory / "strange" / "tokenizer.json").read_text())
    tokens = vocabulary["model"]["vocab"]
    tokens["a"], tokens["b"] = tokens["b"], tokens["a"]
    (directory / "strange" / "tokenizer.json").write_text(json.dumps(vocabulary))
    LlamaForCausalLM(LlamaConfig(vocab_size=300, **small)).model.save_pretrained(
        directory / "headless"
    )
    byte_tokenizer().save_pretrained(directory / "headless")
    bert = {"model_type": "bert", "vocab_size": 300, **small}
    (directory / "bert.json").write_text(json.dumps(bert))
    (directory / "t5.json").write_text(json.dumps({"model_type": "t5", "vocab_size": 300}))
    return {
        "layers": ({"student": "teacher[layers=0,9]"}, "the teacher's 4 layers"),
        "no teacher": ({"teacher": None}, "Pass --teacher with its directory"),
        "narrow": (
            {"student": str(directory / "narrow" / "config.json")},
            "expected at least the teacher's 300 outputs; found 299",
        ),
        "tokenizer": ({"student": str(directory / "strange")}, "SoftTargetDataset, tokenizer"),
        "headless": ({"student": str(directory / "headless")}, "found none for lm_head.weight"),
        "both ways": ({"student": str(directory / "bert.json")}, "reads in both directions"),
        "encoder-decoder": ({"student": str(directory / "t5.json")}, "AutoModelForCausalLM makes"),
        "no file": ({"student": str(directory / "none.json")}, "found no such file"),
        "no model": ({"student": str(directory / "none")}, "--student .*/none: expected a model"),
        "temperature": ({"temperature": 3.0}, "temperature 3"),
        "recipe": (
            {"recipe": "magic"},
            "expected one of 'labels', 'minilm', ",
        ),
        "divergence": ({"divergence": "far"}, "far"),
        "tail": ({"tail": "full"}, "expected a store with the teacher's output head"),
        "ce": ({"ce_weight": 2.0}, "ce_weight: expected a number from 0 to 1"),
        "field": ({"arguments": {"weight_decai": 1}}, "such as weight_decay"),
        "option": ({"arguments": {"max_steps": 1}}, "max_steps by its option --steps"),
        "schedule": ({"schedule": "magic"}, "TrainingArguments: expected values"),
        "batches": ({"global_batch_size": 6}, "expected a multiple of --batch-size 4"),
        "both": ({"epochs": 1.0}, "--epochs and --steps: expected one of them"),
        "half": ({"dtype": "float16"}, "--dtype: expected float32 or bfloat16 without a CUDA"),
        "lora": ({"lora": "rank=4"}, "--lora: expected a known name"),
        "lora of noise": (
            {"lora": "r=4", "student": str(directory / "narrow" / "config.json")},
            "--lora: expected a student that has learned something",
        ),
        "share": ({"evaluation_share": 1.5}, "--eval-share: expected from 0 to below 1"),
    }


NAMES = [
    "layers", "no teacher", "narrow", "tokenizer", "headless", "both ways", "encoder-decoder",
    "no file", "no model", "temperature", "recipe", "divergence", "tail", "ce", "field", "option",
    "schedule", "batches", "both", "half", "lora", "lora of noise", "share",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_is_said_before_anything_is_written(
    settings: Make, llama: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cases = bad_students(llama, tmp_path)
    assert sorted(cases) == sorted(NAMES)
    changes, said = cases[name]
    with pytest.raises(SoftTargetsError, match=said) as caught:
        prepare(settings(**changes))
    assert caught.value.next_step
    assert not (tmp_path / "run").exists()


def test_another_teacher_and_another_store_to_evaluate_on_are_refused(
    settings: Make, store: Store, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=4,
        num_attention_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    with pytest.raises(IdentityError, match="other, weights_sha256: expected"):
        prepare(settings(teacher=str(tmp_path / "other")))
    with pytest.raises(IdentityError, match=r"--eval .*, teacher: expected that of"):
        prepare(settings(evaluation=store.root))


@pytest.mark.slow
def test_a_run_in_bfloat16_with_less_memory(settings: Make, taught: Store, tmp_path: Path) -> None:
    options: dict[str, Any] = {"learning_rate": 1e-2, "steps": 4}
    plain = train(prepare(settings(output=tmp_path / "plain", **options)))
    found = train(prepare(settings(dtype="bfloat16", gradient_checkpointing=True, **options)))
    for row in ("before", "after"):
        assert found.results[row]["kl"] == pytest.approx(plain.results[row]["kl"], rel=0.05)
        assert found.results[row]["kl"] != plain.results[row]["kl"]
    assert weights_of(tmp_path / "run")["lm_head.weight"].dtype == torch.float32


@pytest.mark.slow
def test_a_student_is_pushed_without_its_checkpoints(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("softtargets.runs.model_push.get_token", lambda: None)
    for name, said in (
        ("org", "Name a model repository"),
        ("org/name", "--push: expected a token"),
    ):
        with pytest.raises(InputError, match=said):
            prepare(settings(push=name))
    assert not (tmp_path / "run").exists()
    train(prepare(settings(steps=2)))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with run_hub() as hub:
        assert push_student(tmp_path / "run", "org/name", hub.client()) == "hf://org/name"
        files = set(hub.datasets["org/name"].files()) - {".gitattributes"}
        with pytest.raises(StoreError, match="with the token that is set"):
            push_student(tmp_path / "run", "org/other", hub.client("hf_stranger"))
    own = {path.name for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert {"model.safetensors", "README.md", "tokenizer.json"} <= files == own


@pytest.mark.slow
def test_a_store_to_evaluate_on_and_none_at_all(
    settings: Make, taught: Store, tmp_path: Path
) -> None:
    part, rest = split_store(taught.root, tmp_path / "part", tmp_path / "rest", fraction=0.3)
    named = train(prepare(settings(store=part.root, evaluation=rest.root, steps=2)))
    assert named.results["after"]["kl"] > 0
    alone = train(
        prepare(settings(output=tmp_path / "alone", evaluation_share=0.0, steps=2, baseline=True))
    )
    assert alone.results == {"before": {}, "after": {}, "baseline": {}}
    assert "Results" not in (tmp_path / "alone" / "README.md").read_text()
