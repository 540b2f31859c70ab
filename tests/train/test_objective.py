"""An objective that is defined here alone goes through every trainer, with its own parameters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity
from transformers import TrainingArguments

from softtargets import Batch, SoftTargetDataset, Store
from softtargets.errors import InputError
from softtargets.train import (
    DistillationModule,
    DistillationObjective,
    DistillationTrainer,
    Objective,
    SoftTargetLoader,
    StudentOutputs,
    StudentWithObjective,
)
from softtargets.train.student_loss import StudentLoss
from tests.fakes import build_store
from tests.train.programs import launch
from tests.train.runs import (
    EPOCHS,
    GLOBAL_BATCH_SIZE,
    LOSS,
    TRAINERS,
    StopAfter,
    make_student,
    open_dataset,
    optimizer_of,
)

pytestmark = [
    # Of Lightning: how it uses torch, and that nothing is validated here.
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but:UserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is:FutureWarning"),
]
OBJECTIVE = f"{__name__}:WithCosine"
ADAPTERS = ("accelerate", "hf", "lightning", "trl")
TOLERANCE = 1e-4
"""Of a sum of weights, of which training changes some by more than a hundred times that."""


class WithCosine(DistillationObjective):
    """Distillation, and the angles of projected last hidden states to the teacher's."""

    needs = frozenset({"logits", "hidden_states"})

    def __init__(self, is_fused: bool) -> None:
        super().__init__(LOSS, fused=is_fused)
        self.projection = torch.nn.Linear(16, 16, bias=False, dtype=torch.float64)
        torch.nn.init.eye_(self.projection.weight)

    def loss(
        self, outputs: StudentOutputs, batch: Batch, num_targets: float | torch.Tensor | None
    ) -> torch.Tensor:
        is_target = batch["target_mask"]
        own_ND = self.projection(outputs.hidden_states[-1][is_target])
        angles_N = 1 - cosine_similarity(own_ND, batch["hidden_states"][is_target].double())
        number = batch["num_targets"] if num_targets is None else num_targets
        return super().loss(outputs, batch, num_targets) + angles_N.sum() / number


class OfLayers(Objective):
    """The size of every layer's output: it needs no logits."""

    needs = frozenset({"hidden_states", "attentions"})

    def loss(
        self, outputs: StudentOutputs, batch: Batch, num_targets: float | torch.Tensor | None
    ) -> torch.Tensor:
        assert outputs.logits is outputs.head_loss is None
        assert len(outputs.attentions) == len(outputs.hidden_states) - 1 == 1
        sizes = [layer.square().sum() for layer in outputs.hidden_states]
        return torch.stack(sizes).sum() / 1000


@pytest.fixture(autouse=True)
def _own_random_numbers() -> Iterator[None]:
    """Trainers seed everything; what other tests draw does not depend on it."""
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return build_store(tmp_path, hidden_states=True)


def train_by_hand(store: Store, *, fused: bool = False, stop_after: int = 0) -> list[float]:
    """Train in a loop of one's own, which is stopped and resumed; return the sum of each weight."""
    trained = StudentWithObjective(make_student(), WithCosine(fused))
    optimizer = optimizer_of(trained.parameters())
    loader = SoftTargetLoader(open_dataset(str(store.root), batch_size=GLOBAL_BATCH_SIZE))
    num_steps = 0
    while loader.epoch < EPOCHS:
        epoch = loader.epoch
        for batch in loader:
            trained(batch, batch["step_targets"]).backward()
            optimizer.step()
            optimizer.zero_grad()
            num_steps += 1
            if num_steps == stop_after:
                break
        else:
            loader.set_epoch(epoch + 1)
            continue
        state, place = trained.state_dict(), loader.state_dict()
        trained = StudentWithObjective(make_student(), WithCosine(fused))
        trained.load_state_dict(state)
        optimizer = optimizer_of(trained.parameters())
        loader = SoftTargetLoader(open_dataset(str(store.root), batch_size=GLOBAL_BATCH_SIZE))
        loader.load_state_dict(place)
    return [float(one.detach().double().sum()) for one in trained.parameters()]


@pytest.mark.slow
def test_its_parameters_are_trained_and_resumed(store: Store) -> None:
    expected = train_by_hand(store)
    before = StudentWithObjective(make_student(), WithCosine(False))
    moved = [
        abs(float(one.detach().double().sum()) - last)
        for one, last in zip(before.parameters(), expected, strict=True)
    ]
    assert len(expected) == len(list(make_student().parameters())) + 1
    assert moved[-1] > 100 * TOLERANCE
    np.testing.assert_allclose(train_by_hand(store, stop_after=7), expected, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(train_by_hand(store, fused=True), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ADAPTERS)
def test_every_trainer_takes_it_and_resumes_its_parameters(
    store: Store, tmp_path: Path, trainer: str
) -> None:
    how: dict[str, Any] = {"objective": OBJECTIVE, "accumulated": 3}
    train, root = TRAINERS[trainer], str(store.root)
    train(root, str(tmp_path), stop=7, **how)
    found = train(root, str(tmp_path), resume=True, **how)["weights"]
    np.testing.assert_allclose(found, train_by_hand(store), atol=TOLERANCE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("trainer", ADAPTERS)
def test_two_processes_train_its_parameters_as_one(
    store: Store, tmp_path: Path, trainer: str, fused: bool
) -> None:
    run = {"store": str(store.root), "directory": str(tmp_path), "accumulated": 3}
    runs = [{**run, "objective": OBJECTIVE, "fused": fused}]
    ranks = launch("train", trainer, runs, num_processes=2, directory=tmp_path / "reports")
    for [found] in ranks:
        np.testing.assert_allclose(found["weights"], train_by_hand(store), atol=TOLERANCE, rtol=0)


def make_trainer(store: Store, directory: Path, objective: Objective, **options: Any) -> Any:
    args = TrainingArguments(
        str(directory), max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True,
        dataloader_pin_memory=False, save_strategy="no", per_device_train_batch_size=4,
        per_device_eval_batch_size=4, **options,
    )  # fmt: skip
    dataset = SoftTargetDataset(store, batch_size=4)
    return DistillationTrainer(
        make_student(), args, train_dataset=dataset, eval_dataset=dataset, objective=objective,
        callbacks=[StopAfter(1)],
    )  # fmt: skip


@pytest.mark.slow
def test_a_trainers_own_optimizer_and_its_limit_of_gradients_know_its_parameters(
    store: Store, tmp_path: Path
) -> None:
    weights = []
    for limit in (0.0, 1e-9):
        objective = WithCosine(False)
        before = objective.projection.weight.detach().clone()
        trainer = make_trainer(store, tmp_path, objective, max_grad_norm=limit, optim="sgd")
        trainer.train()
        assert trainer.evaluate()["eval_loss"] > 0
        assert not objective.training
        weights.append(float((objective.projection.weight.detach() - before).abs().max()))
    assert weights[0] > 1e-6
    assert weights[1] < 1e-12


@pytest.mark.slow
def test_a_checkpoint_without_its_parameters_is_refused(store: Store, tmp_path: Path) -> None:
    make_trainer(store, tmp_path, DistillationObjective()).train()
    assert not list(tmp_path.rglob("objective.pt"))
    with pytest.raises(InputError, match=r"objective\.pt, with the parameters of the objective"):
        make_trainer(store, tmp_path, WithCosine(False)).train(resume_from_checkpoint=True)


def test_without_need_of_logits_the_output_head_does_not_run(store: Store) -> None:
    student = make_student()
    student.set_attn_implementation("eager")
    batch = next(iter(SoftTargetDataset(store, batch_size=4)))
    seen: list[int] = []
    student.lm_head.register_forward_hook(lambda *_: seen.append(_[2].shape[-1]))
    loss = StudentLoss(OfLayers())(student, student, batch, None)
    loss.backward()
    assert seen == [1]
    assert student.lm_head.weight.grad is None
    assert student.model.embed_tokens.weight.grad is not None
    assert StudentLoss(OfLayers())(student.model, student.model, batch, None) == loss


def test_an_objective_without_a_loss_says_so(store: Store) -> None:
    batch = next(iter(SoftTargetDataset(store, batch_size=4)))
    with pytest.raises(NotImplementedError, match="Objective has no method loss"):
        StudentWithObjective(make_student(), Objective())(batch)


def test_an_objective_and_a_loss_are_not_both_taken() -> None:
    for both in ({"loss": LOSS}, {"fused": True}):
        with pytest.raises(InputError, match="expected an objective, or a loss and fused"):
            DistillationModule(make_student(), optimizer_of, objective=OfLayers(), **both)
