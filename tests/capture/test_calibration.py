"""How far an engine is from transformers is measured before the build, and the store says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from softtargets.capture import Keep, Segment, Selected, Teacher, TeacherConfig, build
from softtargets.capture.calibration import calibration_windows, measure_drift
from softtargets.capture.segments import segments_of
from softtargets.cli.info_command import describe
from softtargets.errors import InputError, TeacherError
from softtargets.report.summary import summary
from softtargets.store import verify
from softtargets.store.card import card_text
from softtargets.tasks.causal_lm.causal_capture import CausalCapture
from tests.capture.teacher_suite import windows
from tests.capture.test_toy_teacher import Bigrams
from tests.fakes import FakeTeacher, build_config

REFERENCE = TeacherConfig(name="the reference")


class Drifting(FakeTeacher):
    """A fake engine whose logits are off by a part of the first hidden state, and by a shift."""

    name = "drifting"
    scale, shift, late = 0.01, 3.0, 0

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        logits_NV = super().logits(hidden_ND)
        noise_NV = torch.cos(logits_NV * 1000)
        return logits_NV.roll(self.late, dims=0) + self.scale * noise_NV + self.shift

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"architecture": "Drifting"}


class Guessing(Drifting):
    """The same, whose numbers are lists."""

    abilities = Bigrams.abilities

    def capture(self, segments: Sequence[Segment], keep: Keep) -> Selected:
        found = super().capture(segments, keep)
        lse_N1 = found.logits_NK.logsumexp(1, keepdim=True)
        lse_N1 -= torch.log1p(-found.tail_mass_NG)
        return Selected(
            ids_NK=found.ids_NK,
            logits_NK=found.logits_NK - lse_N1,
            num_entries_N=found.num_entries_N,
            tail_mass_NG=found.tail_mass_NG,
        )


class WithReference(CausalCapture):
    def teacher(self, config: TeacherConfig) -> Teacher:
        assert config is REFERENCE
        return FakeTeacher()


def drift_of(teacher: Teacher) -> Any:
    reference = FakeTeacher()
    return measure_drift(teacher, reference, windows(reference), segments_of)


def test_drift_is_what_an_engine_adds() -> None:
    found = drift_of(Drifting())
    assert found.windows == 5
    assert found.positions == sum(map(len, windows(FakeTeacher()))) - 5
    assert found.logits.mean == pytest.approx(3, abs=0.02)
    assert found.logsumexp.largest == pytest.approx(3, abs=0.02)
    assert 0.005 < found.logprobs.mean < found.logprobs.largest < 0.03
    assert 0.9 < found.top1 < 1
    assert found.reference == FakeTeacher().describe()


def test_the_same_model_has_none() -> None:
    found = drift_of(FakeTeacher())
    assert found.top1 == 1
    assert found.logits.largest == 0
    assert found.logprobs.largest == pytest.approx(0, abs=1e-5)


def test_an_engine_of_lists_has_that_of_its_log_probabilities() -> None:
    found, expected = drift_of(Guessing()), drift_of(Drifting())
    assert found.logits is found.logsumexp is None
    assert found.logprobs.mean == pytest.approx(expected.logprobs.mean, abs=1e-5)
    assert found.top1 == expected.top1


def test_other_positions_are_refused() -> None:
    teacher = Drifting()
    teacher.late = 40
    with pytest.raises(TeacherError, match=r"drifting: expected the likeliest id of fake .* found"):
        drift_of(teacher)


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match=r"--reference: .* at least 300 outputs; found fake"):
        measure_drift(Drifting(), FakeTeacher(vocab_size=280), [], segments_of)


def test_a_store_says_how_far_its_engine_is(tmp_path: Path) -> None:
    options: dict[str, Any] = {"reference": REFERENCE, "task": WithReference()}
    store = build(build_config(tmp_path, **options), Drifting()).store
    assert verify(store.root).is_sound
    drift = store.manifest.drift
    assert drift["logits"]["mean"] == pytest.approx(3, abs=0.02)
    assert describe(store)["drift"] == drift
    assert "logits 3 (3)" in summary(store)["drift"]
    assert "**Drift of its engine**: from transformers in float32" in card_text(store.manifest)
    assert not (tmp_path / "store" / "work").exists()


def test_drift_decides_nothing_of_the_content(tmp_path: Path) -> None:
    stores = []
    for name, reference in (("one", None), ("other", REFERENCE)):
        (tmp_path / name).mkdir()
        config = build_config(tmp_path / name, reference=reference, task=WithReference())
        stores.append(build(config, Drifting()).store)
    assert stores[0].fingerprint == stores[1].fingerprint
    assert list(stores[0].manifest.shards) == list(stores[1].manifest.shards)
    assert not stores[0].manifest.drift
    assert "drift" not in summary(stores[0])
    assert describe(stores[0])["drift"] is None


def test_few_windows_are_read_and_at_least_one() -> None:
    every = windows(FakeTeacher(), lengths=(9,))
    chosen = calibration_windows(every)
    assert 10 < len(chosen) <= 16
    assert {one.window_id for one in chosen} <= {one.window_id for one in every}
    assert calibration_windows(every[:1]) == every[:1]
