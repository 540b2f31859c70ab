from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from softtargets.errors import InputError, TemperatureError
from softtargets.targets import PackedTargets, SoftTargets, pack
from softtargets.targets.entry_bytes import (
    ESCAPE,
    join_halves,
    join_ids,
    num_id_planes,
    split_halves,
    split_ids,
)
from tests.windows import select_in_numpy, topk_schema

STEP = 1 / 16


def targets_of(logits: list[list[float]], tail: float = 0.25) -> SoftTargets:
    logits_TK = np.array(logits, np.float32)
    num_positions, k = logits_TK.shape
    return SoftTargets(
        ids_TK=np.tile(np.arange(k, dtype=np.int32), (num_positions, 1)),
        logits_TK=logits_TK,
        num_entries_T=np.isfinite(logits_TK).sum(axis=1).astype(np.int32),
        tail_mass_TG=np.full((num_positions, 1), tail, np.float32),
        label_logit_T=np.zeros(num_positions, np.float32),
        label_rank_T=np.zeros(num_positions, np.int32),
        temperatures=(1.0,),
    )


def packed_of(targets: SoftTargets, *, lossless: bool = False) -> PackedTargets:
    schema = topk_schema(
        targets.ids_TK.shape[1],
        vocab_size=500,
        temperatures=targets.temperatures,
        lossless=lossless,
    )
    return pack(targets, schema)


sorted_logits = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 9)),
    elements=st.floats(-1000, 1000, width=32),
).map(lambda logits_TK: -np.sort(-logits_TK, axis=1))


@pytest.mark.slow
@given(sorted_logits)
def test_no_entry_is_further_than_half_a_step(logits_TK: np.ndarray) -> None:
    targets = targets_of(logits_TK.tolist())
    unpacked = packed_of(targets).unpack()
    distance_TK = logits_TK[:, :1].astype(np.float64) - logits_TK
    found_TK = unpacked.logits_TK[:, :1].astype(np.float64) - unpacked.logits_TK
    # The float32 of a logit near 1000 is itself off by up to 3e-5.
    assert np.abs(found_TK - distance_TK).max() <= STEP / 2 + 1e-4
    assert np.array_equal(unpacked.logits_TK[:, 0], logits_TK[:, 0])
    assert (np.diff(unpacked.logits_TK, axis=1) <= 0).all()


@pytest.mark.slow
@given(sorted_logits)
def test_lossless_mode_changes_nothing(logits_TK: np.ndarray) -> None:
    unpacked = packed_of(targets_of(logits_TK.tolist()), lossless=True).unpack()
    assert np.array_equal(unpacked.logits_TK, logits_TK)


def test_errors_do_not_add_up_along_the_rank() -> None:
    # Each gap is 0.4 steps: rounding gaps would give a distance of 0 at every rank.
    logits = [-0.4 * STEP * rank for rank in range(64)]
    unpacked = packed_of(targets_of([logits])).unpack()
    assert np.abs(unpacked.logits_TK[0] - logits).max() <= STEP / 2 + 1e-6


@pytest.mark.parametrize("gap", [14, 15, 16, 255, 256, 100_000])
def test_large_gaps_are_exact(gap: int) -> None:
    packed = packed_of(targets_of([[1.0, 1 - gap * STEP, 1 - (gap + 3) * STEP]] * 2))
    assert split_halves(packed.cells["steps"], 3)[0].tolist() == [0, min(gap, ESCAPE), 3]
    assert packed.cells["escapes"].tolist() == ([gap, gap] if gap >= ESCAPE else [])
    assert packed.unpack().logits_TK[1].tolist() == [1.0, 1 - gap * STEP, 1 - (gap + 3) * STEP]


def test_gaps_that_cannot_be_counted_are_refused() -> None:
    with pytest.raises(InputError, match=r"neighbouring ranks within 1\.34e"):
        packed_of(targets_of([[0.0, -2e8]]))


def test_rising_logits_are_refused() -> None:
    with pytest.raises(InputError, match=r"position 1: .* a rise at rank 2"):
        packed_of(targets_of([[3, 2, 1], [3, 1, 2]]))


@pytest.mark.parametrize("lossless", [False, True])
def test_entries_past_the_count_come_back_as_minus_infinity(lossless: bool) -> None:
    packed = packed_of(targets_of([[3, 2, -np.inf], [3, 2, 1]]), lossless=lossless)
    assert packed.cells["id_plane_0"][0].tolist() == [0, 1, 0]
    unpacked = packed.unpack()
    assert unpacked.logits_TK.tolist() == [[3, 2, -np.inf], [3, 2, 1]]
    assert unpacked.logprobs_TK()[0, 2] == -np.inf


@pytest.mark.parametrize(
    ("vocab_size", "planes"),
    [(1, 1), (256, 1), (257, 2), (49_152, 2), (65_536, 2), (65_537, 3), (151_936, 3),
     (262_144, 3), (1 << 24, 3), ((1 << 24) + 1, 4)],
)  # fmt: skip
def test_every_id_of_any_vocabulary_survives(vocab_size: int, planes: int) -> None:
    ids = [
        0,
        vocab_size // 2,
        vocab_size - 1,
        min(vocab_size - 1, 1 << 17),
        min(255, vocab_size - 1),
    ]
    ids_TK = np.array([ids], np.int32)
    assert num_id_planes(vocab_size) == planes
    assert join_ids(split_ids(ids_TK, planes)).tolist() == [ids]


@given(
    hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.integers(0, 15)
    )
)
def test_half_bytes_come_back(steps_TK: np.ndarray) -> None:
    joined_TH = join_halves(steps_TK)
    k = steps_TK.shape[1]
    assert joined_TH.shape[1] == (k + 1) // 2
    assert np.array_equal(split_halves(joined_TH, k), steps_TK)


def test_logprobs_and_tail_sum_to_one_at_each_temperature(rng: np.random.Generator) -> None:
    logits_TV = (4 * rng.standard_normal((20, 500))).astype(np.float32)
    labels_T = rng.integers(0, 500, 20)
    exact = select_in_numpy(logits_TV, labels_T, 16, (0.5, 1.0, 3.0))
    unpacked = packed_of(exact).unpack()
    for temperature in exact.temperatures:
        scaled_TV = logits_TV.astype(np.float64) / temperature
        lse_T = np.log(np.exp(scaled_TV).sum(axis=1))
        expected_TK = (
            np.take_along_axis(scaled_TV, exact.ids_TK.astype(np.int64), 1) - lse_T[:, None]
        )
        assert np.abs(exact.logprobs_TK(temperature) - expected_TK).max() < 1e-5
        assert np.abs(exact.logsumexp_T(temperature) - lse_T).max() < 1e-5
        sums_T = np.exp(unpacked.logprobs_TK(temperature)).sum(axis=1)
        sums_T += np.exp(unpacked.tail_logmass_T(temperature))
        assert np.abs(sums_T - 1).max() < 1e-5
        assert np.abs(unpacked.logprobs_TK(temperature) - expected_TK).max() < STEP / temperature


def test_a_full_vocabulary_has_no_tail(rng: np.random.Generator) -> None:
    logits_TV = rng.standard_normal((3, 10)).astype(np.float32)
    targets = select_in_numpy(logits_TV, np.zeros(3, np.int64), 10, (1.0,))
    assert (targets.tail_logmass_T() == -np.inf).all()
    assert np.abs(np.exp(targets.logprobs_TK()).sum(axis=1) - 1).max() < 1e-6


def test_a_temperature_outside_the_grid_is_refused() -> None:
    with pytest.raises(TemperatureError, match=r"temperature 2: .* stored: 1; .* --temperature 2"):
        targets_of([[1.0]]).logprobs_TK(2.0)
