from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from softtargets import SoftTargetDataset, Store
from softtargets.errors import IdentityError, InputError
from softtargets.train import DistillationTrainer
from softtargets.train.student import student_inputs
from tests.fakes import build_store
from tests.train.runs import RecordingLoss, StopAfter, make_student


def make_trainer(
    store: Store, directory: Path, *, steps: int | None = None, **options: Any
) -> DistillationTrainer:
    defaults: dict[str, Any] = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4}
    args = TrainingArguments(
        str(directory), num_train_epochs=1, use_cpu=True, report_to=[], disable_tqdm=True,
        dataloader_pin_memory=False, save_strategy="no", **{**defaults, **options},
    )  # fmt: skip
    return DistillationTrainer(
        make_student(),
        args,
        train_dataset=SoftTargetDataset(store, batch_size=4),
        eval_dataset=SoftTargetDataset(store, batch_size=4),
        loss=RecordingLoss(),
        callbacks=[StopAfter(steps)],
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"label_names": ["nothing"]}, {"remove_unused_columns": False}]
)
def test_the_evaluation_loss_is_the_mean_over_all_targets(
    store: Store, tmp_path: Path, options: dict[str, Any]
) -> None:
    trainer = make_trainer(store, tmp_path, **options)
    found = trainer.evaluate()["eval_loss"]
    student, loss, total, means = make_student().eval(), RecordingLoss(), 0.0, []
    with torch.no_grad():
        for batch in SoftTargetDataset(store, batch_size=4):
            logits = student(**student_inputs(batch)).logits
            means.append(float(loss(logits, batch, num_targets=None)))
            total += means[-1] * batch["num_targets"]
    number = sum(int(window.mask_T.sum()) for window in store)
    assert found == pytest.approx(total / number, rel=1e-5)
    # A mean of the batches' means would be another number.
    assert found != pytest.approx(sum(means) / len(means), rel=1e-5)


@pytest.mark.slow
def test_the_checkpoint_has_the_fingerprint_and_refuses_another_store(
    store: Store, tmp_path: Path
) -> None:
    make_trainer(store, tmp_path / "run", steps=3).train()
    state = json.loads((tmp_path / "run" / "checkpoint-3" / "trainer_state.json").read_text())
    kept = state["stateful_callbacks"]["SoftTargetDataset"]["attributes"]
    assert (kept["fingerprint"], kept["epoch"], kept["place"]) == (store.fingerprint, 0, 12)
    (tmp_path / "other").mkdir()
    other = build_store(tmp_path / "other", temperatures=(2.0, 3.0))
    with pytest.raises(IdentityError, match="load_state_dict, fingerprint"):
        make_trainer(other, tmp_path / "run").train(resume_from_checkpoint=True)
    # Counted in steps of another size, it would go on somewhere else.
    with pytest.raises(InputError, match=r"after step 3, epoch 0, place 24, .* found .* place 12"):
        make_trainer(store, tmp_path / "run", gradient_accumulation_steps=2).train(
            resume_from_checkpoint=True
        )
    with pytest.raises(InputError, match="and ignore_data_skip"):
        make_trainer(store, tmp_path / "run", ignore_data_skip=True).train(
            resume_from_checkpoint=True
        )
    del state["stateful_callbacks"]["SoftTargetDataset"]
    (tmp_path / "run" / "checkpoint-3" / "trainer_state.json").write_text(json.dumps(state))
    with pytest.raises(IdentityError, match="with its place in a store; found one without"):
        make_trainer(store, tmp_path / "run").train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_what_is_skipped_is_not_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trainer(store, tmp_path, steps=6).train()
    read, done = Store.read_rows, []

    def count(self: Store, ref: Any) -> Any:
        done.append(ref)
        return read(self, ref)

    monkeypatch.setattr(Store, "read_rows", count)
    make_trainer(store, tmp_path).train(resume_from_checkpoint=True)
    assert 0 < len(done) <= 3 < len(store.row_groups)


def test_arguments_that_would_be_ignored_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected 8, as in TrainingArguments; found 4"):
        make_trainer(store, tmp_path, per_device_train_batch_size=8).train()
    with pytest.raises(InputError, match="found compute_loss_func or label_smoothing_factor"):
        make_trainer(store, tmp_path, label_smoothing_factor=0.1)
    trainer = make_trainer(store, tmp_path)
    trainer.train_dataset = [{"input_ids": torch.tensor([1])}]
    with pytest.raises(InputError, match="expected a SoftTargetDataset; found list"):
        trainer.train()


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(("batch_size", "yielded"), [(None, "windows"), (4, "finished batches")])
def test_a_trainer_without_collate_is_told_what_to_pass(
    store: Store, tmp_path: Path, batch_size: int | None, yielded: str, num_workers: int
) -> None:
    args = TrainingArguments(
        str(tmp_path), max_steps=1, save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True, dataloader_num_workers=num_workers, dataloader_pin_memory=False,
    )  # fmt: skip
    dataset = SoftTargetDataset(store, batch_size=batch_size)
    with pytest.raises(InputError, match=rf"to join {yielded}\. .* data_collator=collate"):
        Trainer(make_student(), args, train_dataset=dataset).train()


@pytest.mark.parametrize(("batch_size", "yielded"), [(None, "windows"), (4, "finished batches")])
def test_a_dataloader_without_collate_is_told_what_to_pass(
    store: Store, batch_size: int | None, yielded: str
) -> None:
    loader = DataLoader(SoftTargetDataset(store, batch_size=batch_size), batch_size=2)
    with pytest.raises(InputError, match=rf"to join {yielded}\. .* pass collate_fn=collate"):
        next(iter(loader))
