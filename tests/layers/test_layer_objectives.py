"""Losses of layers: zero for the teacher itself, and as their papers define them for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    PreTrainedModel,
)

from softtargets import Batch, student_inputs
from softtargets.errors import InputError
from softtargets.layers.rerun_layers import RerunLayers
from softtargets.store import Store
from softtargets.train import (
    DistillationObjective,
    Objective,
    RelationObjective,
    StudentWithObjective,
    TinyBERTObjective,
)
from tests.layers.conftest import Saved
from tests.layers.models import HEADS, KINDS, NUM_LAYERS, WIDTH, build_layers
from tests.layers.test_named_layers import whole_batch

EVERY = tuple(range(NUM_LAYERS))


def make_store(directory: Path, saved: Saved, kind: str = "bert", **options: Any) -> Store:
    return build_layers(directory, saved(kind), kind, layers=(0,), rerun_layers=EVERY, **options)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, saved: Saved) -> Store:
    return make_store(tmp_path_factory.mktemp("layers"), saved)


def bert_student(vocab_size: int, **changes: Any) -> PreTrainedModel:
    sizes: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 32,
        "initializer_range": 0.3,
    }
    torch.manual_seed(3)
    student: PreTrainedModel = BertForMaskedLM(BertConfig(**(sizes | changes))).eval()
    return student


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["tinybert", "minilm"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_as_its_own_student_has_neither_loss_nor_gradient(
    tmp_path: Path, saved: Saved, kind: str, objective: str
) -> None:
    store = make_store(tmp_path, saved, kind)
    auto = AutoModelForMaskedLM if kind == "bert" else AutoModelForCausalLM
    student = auto.from_pretrained(saved(kind), dtype=torch.float32).eval()
    teacher = RerunLayers.of(store)
    own: Objective = (
        TinyBERTObjective(teacher) if objective == "tinybert" else RelationObjective(teacher)
    )
    loss = StudentWithObjective(student, own)(whole_batch(store))
    loss.backward()
    assert list(own.parameters()) == []
    assert abs(loss.item()) < 1e-6
    largest = largest_gradient(student)
    assert largest < 1e-3
    # Another student has both.
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.1)
    student.zero_grad()
    loss = StudentWithObjective(student, own)(whole_batch(store))
    loss.backward()
    assert loss.item() > 1e-4
    assert largest_gradient(student) > 10 * largest


@pytest.mark.slow
@pytest.mark.parametrize("values", ["int8", "float8"])
def test_with_a_rounded_store_the_teacher_is_off_by_the_rounding(
    tmp_path: Path, saved: Saved, values: Any
) -> None:
    store = make_store(tmp_path, saved, layer_values=values)
    student = AutoModelForMaskedLM.from_pretrained(saved("bert"), dtype=torch.float32).eval()
    own = TinyBERTObjective(RerunLayers.of(store), attention=0, hidden=0)
    batch = whole_batch(store)
    loss = StudentWithObjective(student, own)(batch).item()
    square = batch.states("layer_0")[batch.token_mask()].square().mean().item()
    relative = store.manifest.rounding["layer_0"]["relative"]
    assert loss == pytest.approx(relative**2 * square, rel=0.1)


def largest_gradient(student: torch.nn.Module) -> float:
    return max(float(one.grad.abs().max()) for one in student.parameters() if one.grad is not None)


class Eager:
    """A model of BERT with all that its own modules compute, by eager attention."""

    def __init__(self, model: Any, batch: Batch) -> None:
        model.set_attn_implementation("eager")
        self.projected: dict[str, Any] = {}
        hooks = []
        for number, layer in enumerate(model.bert.encoder.layer):
            for name in ("query", "key", "value"):
                hooks.append(self._watch(getattr(layer.attention.self, name), f"{number}.{name}"))
        found = model(**student_inputs(batch), output_hidden_states=True)
        for hook in hooks:
            hook.remove()
        model.set_attn_implementation("sdpa")
        self.states = found.hidden_states

    def _watch(self, module: torch.nn.Module, name: str) -> Any:
        def note(_: Any, __: Any, output: torch.Tensor) -> None:
            self.projected[name] = output

        return module.register_forward_hook(note)

    def heads(self, name: str, num_heads: int) -> torch.Tensor:
        heads: torch.Tensor = self.projected[name].unflatten(2, (num_heads, -1)).transpose(1, 2)
        return heads

    def scores(self, number: int) -> torch.Tensor:
        query, key = (self.heads(f"{number}.{one}", HEADS) for one in ("query", "key"))
        scores: torch.Tensor = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        return scores


@pytest.mark.slow
@pytest.mark.parametrize("layer_map", [None, (0, 3)])
def test_tinyberts_loss_is_the_sum_of_its_three(
    store: Store, saved: Saved, layer_map: tuple[int, ...] | None
) -> None:
    batch = whole_batch(store)
    student = bert_student(store.targets.vocab_size)
    teacher = AutoModelForMaskedLM.from_pretrained(saved("bert"), dtype=torch.float32).eval()
    weights: dict[str, Any] = {"attention": 2.0, "hidden": 3.0, "embeddings": 0.5}
    own = TinyBERTObjective(RerunLayers.of(store), layer_map=layer_map, **weights)
    trained = StudentWithObjective(student, own)
    loss = trained(batch)
    one, other = Eager(student, batch), Eager(teacher, batch)
    is_token = batch.token_mask()
    pairs = (is_token[:, None, :] & is_token[:, :, None])[:, None].expand(-1, HEADS, -1, -1)
    expected = torch.zeros(())
    for place, number in enumerate(layer_map or (1, 3)):
        scores, others = one.scores(place), other.scores(number)
        expected += 2 * functional.mse_loss(scores[pairs], others[pairs])
        projected = own.project_hidden(one.states[place + 1])
        target = other.states[number + 1]
        expected += 3 * functional.mse_loss(projected[is_token], target[is_token])
    projected = own.project_embeddings(one.states[0])
    expected += 0.5 * functional.mse_loss(projected[is_token], other.states[0][is_token])
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    number = 3 * batch["num_targets"]
    torch.testing.assert_close(trained(batch, number), expected / 3, rtol=1e-4, atol=0)
    loss.backward()
    assert own.project_hidden.weight.grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("num_heads", [None, 2, 8])
def test_minilms_loss_is_that_of_its_relations(
    store: Store, saved: Saved, num_heads: int | None
) -> None:
    batch = whole_batch(store)
    student = bert_student(store.targets.vocab_size, num_attention_heads=2)
    teacher = AutoModelForMaskedLM.from_pretrained(saved("bert"), dtype=torch.float32).eval()
    own = RelationObjective(RerunLayers.of(store), layer=2, num_heads=num_heads)
    loss = StudentWithObjective(student, own)(batch)
    one, other = Eager(student, batch), Eager(teacher, batch)
    expected, number = torch.zeros(()), num_heads or HEADS
    for name in ("query", "key", "value"):
        for row, length in enumerate(batch["num_tokens"].tolist()):
            relations = []
            for model, layer in ((one, 1), (other, 2)):
                heads = model.heads(f"{layer}.{name}", number)[row, :, :length]
                relation = heads @ heads.transpose(1, 2) / heads.shape[-1] ** 0.5
                relations.append(relation.log_softmax(-1))
            first, second = relations
            kl = functional.kl_div(first, second, log_target=True, reduction="sum")
            expected += kl / (number * batch["num_tokens"].sum())
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    assert list(own.parameters()) == []


@pytest.mark.slow
def test_projections_are_always_the_same_at_first(store: Store) -> None:
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        own = TinyBERTObjective(RerunLayers.of(store))
        own.prepare(bert_student(store.targets.vocab_size))
        own.prepare(bert_student(store.targets.vocab_size))
        made.append(own.state_dict())
    assert made[0].keys() == {
        f"project_{one}.{name}" for one in ("hidden", "embeddings") for name in ("weight", "bias")
    }
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


@pytest.mark.slow
def test_logits_have_their_turn_at_the_end(tmp_path: Path, saved: Saved) -> None:
    store = make_store(tmp_path, saved)
    student = bert_student(store.targets.vocab_size)
    logits = DistillationObjective()
    own = TinyBERTObjective(RerunLayers.of(store), logits=logits, logits_share=0.25)
    trained, batch = StudentWithObjective(student, own), whole_batch(store)
    of_layers = trained(batch).item()
    own.advance(0.74)
    assert trained(batch).item() == of_layers
    own.advance(0.75)
    assert own.needs == {"logits"}
    expected = StudentWithObjective(student, logits)(batch)
    loss = trained(batch)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(float(one.grad.abs().sum()) == 0 for one in own.parameters() if one.grad is not None)
    own.advance(0.0)
    assert trained(batch).item() == of_layers


@pytest.mark.slow
def test_what_does_not_fit_is_refused(tmp_path: Path, saved: Saved, store: Store) -> None:
    vocab_size = store.targets.vocab_size
    teacher = RerunLayers.of(store)
    batch = whole_batch(store)
    for options, changes, message in (
        (
            {},
            {"num_hidden_layers": 3},
            r"--layer-map: expected .* each of the student's 3; found none",
        ),
        ({"layer_map": (1,)}, {}, r"--layer-map: .* each of the student's 2; found 1"),
        ({"layer_map": (1, 4)}, {}, r"--layer-map: .*teacher, 0 to 3, .* found 1, 4"),
        ({}, {"num_attention_heads": 2}, r"attention: expected .* teacher's 4 heads.*; found 2"),
        ({"attention": -1}, {}, "attention_weight"),
        ({"attention": 0, "hidden": 0, "embeddings": 0}, {}, "expected one weight above 0"),
    ):
        with pytest.raises(InputError, match=message):
            own = TinyBERTObjective(teacher, **options)
            StudentWithObjective(bert_student(vocab_size, **changes), own)(batch)
    with pytest.raises(InputError, match=r"relation heads: expected a number that divides 16"):
        own_relations = RelationObjective(teacher, num_heads=5)
        StudentWithObjective(bert_student(vocab_size), own_relations)(batch)
    few = build_layers(tmp_path, saved("bert"), "bert", rerun_layers=(3,))
    with pytest.raises(InputError, match=r"layers 1,3, .*; found one with 3.*--rerun-layers 1,3"):
        StudentWithObjective(
            bert_student(vocab_size), TinyBERTObjective(RerunLayers.of(few), embeddings=0)
        )
    without = TinyBERTObjective(RerunLayers.of(few), layer_map=(3, 3))
    with pytest.raises(InputError, match=r"features.*found layer_0"):
        StudentWithObjective(bert_student(vocab_size), without)(whole_batch(few))
    with pytest.raises(InputError, match=r"layers 2, whose relations"):
        RelationObjective(RerunLayers.of(few), layer=2)
    assert teacher.width == WIDTH
