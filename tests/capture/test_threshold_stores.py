"""Stores of threshold draws, from a teacher to what a student reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from softtargets.capture import Draws, Segment, Threshold
from softtargets.capture.comparison import rows_of
from softtargets.capture.keep.sampling import starts
from softtargets.capture.segments import segments_of
from softtargets.errors import TemperatureError
from softtargets.kinds import TargetSchema
from softtargets.store.verification import verify
from softtargets.stream.collate import collate
from softtargets.targets import SoftTargets
from tests.fakes import FakeTeacher, build_store, shard_bytes
from tests.threshold import threshold_in_numpy

NUM = 12
SELECTION = Threshold(draws=Draws(num=NUM, seed=3))


def expected_targets(segment: Segment, schema: TargetSchema) -> SoftTargets:
    """Return what the definition gives for a segment, in plain numpy."""
    assert schema.head is not None
    assert schema.samples is not None
    teacher = FakeTeacher()
    logits_TV = teacher.logits(teacher.read([segment])).float().numpy()
    uniform_T = starts(segment.window.window_id, segment.start, len(logits_TV), 3)
    return threshold_in_numpy(
        logits_TV, segment.label_ids_T, uniform_T, schema.head, schema.samples, schema.temperatures
    )


@pytest.mark.slow
@pytest.mark.parametrize("temperatures", [(1.0,), (1.0, 2.0)])
@pytest.mark.parametrize("values", ["steps", "float32"])
@pytest.mark.parametrize("label_logits", [True, False])
def test_a_store_is_sound_and_has_what_the_definition_says(
    tmp_path: Path, label_logits: bool, values: str, temperatures: tuple[float, ...]
) -> None:
    store = build_store(
        tmp_path,
        selection=SELECTION,
        values=values,
        temperatures=temperatures,
        label_logits=label_logits,
    )
    assert verify(store).problems == ()
    assert store.manifest.identity["selection"]["kind"] == "threshold"
    num_segments = 0
    for window in store:
        found, start = window.targets, 0
        for segment in segments_of(window):
            if not len(segment.positions_T):
                continue
            own = rows_of(found, slice(start, start + len(segment.positions_T)))
            start += len(segment.positions_T)
            expected = expected_targets(segment, store.targets)
            assert np.array_equal(own.num_entries_T, expected.num_entries_T)
            assert np.array_equal(own.ids_TK, expected.ids_TK)
            assert own.samples is not None
            assert expected.samples is not None
            assert np.array_equal(own.samples.num_samples_T, expected.samples.num_samples_T)
            assert np.array_equal(own.samples.ids_S, expected.samples.ids_S)
            tolerance = 1e-5 if values == "float32" else 1 / 128 + 1e-4
            np.testing.assert_allclose(
                own.tail_mass_TG, expected.tail_mass_TG, rtol=np.expm1(tolerance), atol=1e-30
            )
            num_segments += 1
    assert num_segments >= len(store)


@pytest.mark.slow
def test_what_a_store_holds_does_not_depend_on_batches(tmp_path: Path) -> None:
    stores = []
    for batch_tokens in (16, 64, 4096):
        directory = tmp_path / str(batch_tokens)
        directory.mkdir()
        config = {"selection": SELECTION, "batch_tokens": batch_tokens}
        stores.append(shard_bytes(build_store(directory, **config).root))
    assert stores[0] == stores[1] == stores[2]


def test_a_batch_weighs_drawn_ids_by_the_threshold(tmp_path: Path) -> None:
    store = build_store(tmp_path, selection=SELECTION, values="float32")
    batch = collate(list(store))
    at_one, at_two = (batch.soft_targets(one) for one in (1.0, 2.0))
    assert at_one.sample_weights is not None
    assert at_two.sample_weights is not None
    is_drawn = at_one.sample_weights > 0
    assert is_drawn.any()
    assert (at_one.sample_weights[is_drawn] == torch.tensor(1 / NUM)).all()
    assert ((at_two.sample_weights > 0) == is_drawn).all()
    # Entries and draws sum to 1 within a threshold.
    sums = at_one.logprobs.exp().sum(dim=-1) + at_one.sample_weights.sum(dim=-1)
    assert ((sums - 1).abs()[at_one.mask] < 1 / NUM + 1e-5).all()


def test_draws_at_one_temperature_alone_are_refused_at_another(tmp_path: Path) -> None:
    store = build_store(tmp_path, selection=SELECTION, temperatures=(1.0,))
    assert store.targets.samples is not None
    assert store.targets.samples.values == "none"
    with pytest.raises(TemperatureError):
        collate(list(store)).soft_targets(2.0)
