"""What every task promises; each one's tests inherit `TaskTests`."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from softtargets import SoftTargetDataset, student_inputs, verify
from softtargets.capture import BuildConfig, BuildResult, Corpus, Teacher, build, estimate
from softtargets.errors import InputError
from softtargets.tasks import Task, task_of
from softtargets.train import StudentWithObjective
from softtargets.train.figures import AGREEMENT, FIGURES, KL, SQUARED_ERROR
from softtargets.train.recipe import stored_temperature
from tests.capture.plans import cut_small, plan_at_once, plan_files

NEAR = 1e-5
"""By how much the loss of a teacher as its own student may differ from zero, and its gradient."""


class TaskTests:
    """Tests of a task; a subclass makes it, and all that is needed to use it."""

    refused: ClassVar[Collection[str]] = ()
    """The recipes for which the store of `config` lacks something."""

    def task(self) -> Task:
        """Return the task; if it is your own, it is registered while the class is tested."""
        raise NotImplementedError

    def config(self, directory: Path) -> BuildConfig:
        """Return a lossless build of some documents of unlike length, of several units."""
        raise NotImplementedError

    def teacher(self) -> Teacher:
        """Return a new teacher, which is always the same."""
        raise NotImplementedError

    def student(self, teacher: Teacher) -> torch.nn.Module:
        """Return a student that answers as the teacher does, and has parameters."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def built(cls, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
        """What the class builds, once: no test changes the store."""
        return build(cls().config(tmp_path_factory.mktemp("built")), cls().teacher())

    def test_its_stores_are_found_to_be_of_it(self, built: BuildResult) -> None:
        task = self.task()
        assert task.owns(built.store.targets)
        assert task_of(built.store.targets).name == task.name

    def test_a_build_is_sound_and_as_it_was_planned(
        self, built: BuildResult, tmp_path: Path
    ) -> None:
        store = built.store
        assert verify(store.root).is_sound
        assert len(store.manifest.shards) > 1
        plan = estimate(self.config(tmp_path), self.teacher(), sample_windows=3)
        assert plan.fingerprint == store.fingerprint
        assert plan.num_targets == store.num_positions
        assert plan.corpus == store.manifest.corpus

    def test_a_corpus_that_repeats_itself_makes_the_same_windows(
        self, built: BuildResult, tmp_path: Path
    ) -> None:
        config = self.config(tmp_path)
        assert isinstance(config.corpus, Corpus)
        paths = [Path(one) for one in config.corpus.paths]
        again = [one.with_name(f"again-{one.name}") for one in paths]
        for one, other in zip(paths, again, strict=True):
            shutil.copy(one, other)
        twice = replace(config.corpus, paths=(*paths, *again))
        plan = estimate(replace(config, corpus=twice), self.teacher(), sample_windows=1)
        once = built.store.manifest.corpus
        assert plan.corpus["windows"] == once["windows"]
        assert plan.corpus["repeated_windows"] > 2 * once["repeated_windows"]

    def test_it_is_planned_in_slices_as_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every part of each stage is small, and half of the corpus repeats the other."""
        config = self.config(tmp_path)
        assert isinstance(config.corpus, Corpus)
        paths = tuple(Path(one) for one in config.corpus.paths)
        config = replace(config, corpus=replace(config.corpus, paths=paths * 2))
        expected = plan_at_once(config, self.teacher(), tmp_path / "at-once")
        cut_small(monkeypatch)
        assert plan_files(config, self.teacher(), tmp_path / "in-slices") == expected

    def test_its_fields_of_the_identity_are_canonical_json_and_its_own(
        self, built: BuildResult, tmp_path: Path
    ) -> None:
        """Keys are texts and numbers finite, so that any language computes the same fingerprint."""
        config = self.config(tmp_path)
        described = config.capture_task.describe(config)
        assert json.loads(json.dumps(described, allow_nan=False)) == described
        others = {"format_version", "teacher", "tokenizer", "corpus", "windowing", "targets"}
        assert not described.keys() & {*others, "unit_tokens", "compression"}
        assert built.store.manifest.identity.items() >= described.items()

    def test_segments_have_the_targets_of_their_windows_in_order(
        self, built: BuildResult, tmp_path: Path
    ) -> None:
        windows = list(built.store)
        task = self.config(tmp_path).capture_task
        segments = task.segments(*windows)
        for window in windows:
            own = [one for one in segments if one.window is window]
            labels_T = np.concatenate([one.label_ids_T for one in own])
            assert sum(len(one.positions_T) for one in own) == len(window.mask_T)
            if built.store.targets.has_labels:
                np.testing.assert_array_equal(labels_T, window.labels_T)
            for one in own:
                assert (np.diff(one.positions_T) > 0).all()
                assert set(one.positions_T.tolist()) <= set(range(len(one)))
        order = {window.window_id: place for place, window in enumerate(windows)}
        places = [order[one.window.window_id] for one in segments]
        assert places == sorted(places)

    def test_a_worker_has_the_same_task(self, tmp_path: Path) -> None:
        config = self.config(tmp_path)
        other = pickle.loads(pickle.dumps(config.capture_task))
        assert other.describe(config) == config.capture_task.describe(config)

    def test_the_teacher_as_its_own_student_has_no_loss_and_no_gradient(
        self, built: BuildResult
    ) -> None:
        task = task_of(built.store.targets).student()
        student = self.student(self.teacher())
        trained = StudentWithObjective(student, task.objective())
        num_targets = 0
        for batch in SoftTargetDataset(built.store, shuffle=True, batch_size=4):
            assert task.inputs(batch).keys() == student_inputs(batch).keys()
            loss = trained(batch)
            loss.backward()
            assert abs(loss.item()) < NEAR
            num_targets += batch["num_targets"]
        assert num_targets == sum(int(window.mask_T.sum()) for window in built.store)
        for parameter in student.parameters():
            if not parameter.requires_grad:
                continue
            assert parameter.grad is not None
            assert parameter.grad.abs().max() < NEAR

    def test_a_student_that_answers_otherwise_has_a_loss(self, built: BuildResult) -> None:
        student = self.student(self.teacher())
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.copy_(parameter.flip(0))
        trained = StudentWithObjective(student, task_of(built.store.targets).student().objective())
        batch = next(iter(SoftTargetDataset(built.store, batch_size=4)))
        assert trained(batch).item() > 1000 * NEAR

    def test_the_teacher_as_its_own_student_is_as_near_as_can_be(self, built: BuildResult) -> None:
        """By every recipe that the command has for the task, and by its figures."""
        store = built.store
        task = task_of(store.targets).student()
        student = self.student(self.teacher())
        batch = next(iter(SoftTargetDataset(store, batch_size=4)))
        for name, recipe in task.recipes.items():
            resolved = recipe.resolved(store.targets)
            needs_layers = recipe.layers is not None and store.targets.layers is None
            if name in self.refused or needs_layers:
                with pytest.raises(InputError) as caught:
                    task.recipe_objective(resolved, store)
                assert caught.value.next_step
                continue
            loss = StudentWithObjective(student, task.recipe_objective(resolved, store))(batch)
            assert math.isfinite(loss.item())
            if recipe.ce_weight == 0:
                assert abs(loss.item()) < NEAR
        if task.recipes:
            temperature = stored_temperature(store.targets)
            with torch.no_grad():
                logits = student(**task.inputs(batch)).logits
            found = task.figures(logits, batch, temperature)
            means = {name: float(one.sum) / float(one.number) for name, one in found.items()}
            [distance] = means.keys() & {KL, SQUARED_ERROR}
            assert abs(means[distance]) < NEAR
            assert means.get(AGREEMENT, 1.0) == 1.0
            assert set(means) <= set(FIGURES)
