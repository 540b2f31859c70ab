from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softtargets.errors import CorruptionError, InputError
from softtargets.kinds import SampleSchema
from softtargets.targets import Samples
from softtargets.targets.draw_packing import (
    check_draws,
    highest_logits,
    pack_draws,
    unpack_draws,
)

DRAWS, VOCAB = 6, 300_001
SCHEMA = SampleSchema(num_draws=DRAWS, origin="all", temperature=1.0)


def samples_of(positions: list[dict[int, int]], *, logits: bool = False) -> Samples:
    """Return samples from the count of each id at each position."""
    ids = [token for position in positions for token in position]
    return Samples(
        num_samples_T=np.array([len(position) for position in positions], np.int32),
        ids_S=np.array(ids, np.int32),
        counts_S=np.array([one for position in positions for one in position.values()], np.int32),
        logits_S=np.array(ids, np.float32) / np.float32(-7) if logits else None,
    )


def packed_of(
    samples: Samples,
    num_draws_T: np.ndarray,
    top_logit_T: np.ndarray | None = None,
    schema: SampleSchema = SCHEMA,
) -> dict[str, np.ndarray]:
    """Return the cells of draws, the top logit among them."""
    has_logits = schema.values != "none"
    cells = pack_draws(samples, num_draws_T, top_logit_T, has_logits=has_logits, step=schema.step)
    return cells if top_logit_T is None else {**cells, "top_logit": top_logit_T}


def unpacked(
    cells: dict[str, np.ndarray], num_draws_T: np.ndarray, schema: SampleSchema = SCHEMA
) -> Samples:
    return unpack_draws(cells, num_draws_T, schema.step, VOCAB)


def counted(samples: Samples) -> list[dict[int, int]]:
    ends = np.cumsum(samples.num_samples_T)
    pairs = list(zip(samples.ids_S.tolist(), samples.counts_S.tolist(), strict=True))
    return [
        dict(pairs[end - num : end]) for end, num in zip(ends, samples.num_samples_T, strict=True)
    ]


def draws(num_positions: int) -> np.ndarray:
    return np.full(num_positions, DRAWS, np.int32)


positions = st.lists(
    st.lists(st.integers(0, 300_000), min_size=DRAWS, max_size=DRAWS).map(
        lambda drawn: {token: drawn.count(token) for token in drawn}
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.slow
@given(positions)
def test_any_draws_come_back(drawn: list[dict[int, int]]) -> None:
    num_draws_T = draws(len(drawn))
    packed = packed_of(samples_of(drawn), num_draws_T)
    assert (packed["sample_gaps"] >= 0).all()
    found = unpacked(packed, num_draws_T)
    assert counted(found) == drawn
    for own in counted(found):
        tokens = list(own)
        assert tokens == sorted(tokens, key=lambda token: (own[token] == 1, token))
    # What was unpacked packs to the same again.
    again = packed_of(found, num_draws_T)
    assert np.array_equal(again["sample_gaps"], packed["sample_gaps"])


def test_positions_without_draws_come_back() -> None:
    drawn: list[dict[int, int]] = [{}, {4: 5, 2: 1}, {}]
    num_draws_T = np.array([0, DRAWS, 0], np.int32)
    packed = packed_of(samples_of(drawn), num_draws_T)
    assert packed["sample_gaps"].tolist() == [4, 2]
    assert counted(unpacked(packed, num_draws_T)) == drawn


@pytest.mark.parametrize("values", ["steps", "float32"])
def test_logits_stay_with_their_ids(values: Literal["steps", "float32"]) -> None:
    schema = dataclasses.replace(SCHEMA, values=values, step=1 / 16)
    drawn = [{900: 1, 3: 5}, {70: 2, 4: 3, 5: 1}]
    samples = samples_of(drawn, logits=True)
    top_T = highest_logits(samples)
    assert top_T.tolist() == pytest.approx([-3 / 7, -4 / 7])
    found = unpacked(packed_of(samples, draws(2), top_T, schema), draws(2), schema)
    assert found.logits_S is not None
    error = np.abs(found.logits_S + found.ids_S.astype(np.float32) / 7).max()
    assert error <= (1 / 32 + 1e-5 if values == "steps" else 0)


@pytest.mark.parametrize(
    ("changes", "promise"),
    [
        ({"counts_S": [0, 6]}, "counts of at least 1"),
        ({"counts_S": [4, 1]}, "counts that sum to the number of draws"),
        ({"counts_S": [3, 3], "ids_S": [4, 4]}, "each once in a run"),
        ({"ids_S": [4, -1]}, "ids that are not negative"),
        ({"logits_S": None}, "a logit for every id"),
        ({"logits_S": [0, np.nan]}, "finite logits"),
        ({"logits_S": [0, 1]}, "none above it"),
        ({"logits_S": [0, -2e8]}, "logits at most"),
    ],
)
def test_samples_that_cannot_be_stored_are_refused(changes: dict[str, list[float] | None],
                                                   promise: str) -> None:  # fmt: skip
    sound = samples_of([{4: 5, 9: 1}], logits=True)
    assert sound.logits_S is not None
    arrays: dict[str, Any] = {
        name: None if value is None else np.array(value, getattr(sound, name).dtype)
        for name, value in changes.items()
    }
    schema = dataclasses.replace(SCHEMA, values="steps", step=1 / 16)
    with pytest.raises(InputError, match=promise):
        changed = dataclasses.replace(sound, **arrays)
        packed_of(changed, draws(1), np.zeros(1, np.float32), schema)


def test_columns_that_do_not_fit_are_refused() -> None:
    packed = packed_of(samples_of([{4: 5, 9: 1}]), draws(1))
    with pytest.raises(CorruptionError, match="a logit for every id; found 1 counts and 1 gaps"):
        unpacked({**packed, "sample_gaps": packed["sample_gaps"][:1]}, draws(1))


@pytest.mark.parametrize("gap", [VOCAB, -2, 2**31 - 1])
def test_ids_out_of_the_vocabulary_are_refused(gap: int) -> None:
    packed = packed_of(samples_of([{4: 5, 9: 1}, {3: 6}]), draws(2))
    assert unpacked(packed, draws(2)).ids_S.tolist() == [4, 9, 3]
    changed = {**packed, "sample_gaps": np.array([gap, 9, 3], np.int32)}
    with pytest.raises(CorruptionError, match="ids from 0 to 300000; found from"):
        unpacked(changed, draws(2))
    with pytest.raises(CorruptionError, match="ids from 0 to 300000; found"):
        check_draws(changed, draws(2), VOCAB)
