"""What a teacher says of a window never contradicts itself, and other stores are found out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from softtargets.store import verify
from softtargets.store.invariants import check_window
from softtargets.targets import Origin
from tests.attacks.contradictions import LABEL, STORES
from tests.corruptions import Change, forge_column
from tests.corruptions import put as put_value
from tests.fakes import build_store
from tests.windows import KINDS, make_window

KNOWN = Origin(is_tail_exact=True, keeps_highest=True)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.slow) if kind == "topk-of-262144" else kind
        for kind in KINDS
    ],
)
@pytest.mark.parametrize("scale", [0.0, 0.1, 3.0, 10.0])
def test_what_a_teacher_says_never_contradicts_itself(kind: str, scale: float) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        ruled_out = 0.3 * (seed % 2)
        window, _ = make_window(rng, KINDS[kind], scale=scale, ruled_out=ruled_out)
        assert list(check_window(window, "here", KNOWN)) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind, one in KINDS.items() if one.temperatures])
@pytest.mark.parametrize("factor", [1e-3, 1e-5, 1e-7, 1e-10, 1e-30])
def test_nothing_contradicts_itself_at_low_temperatures(kind: str, factor: float) -> None:
    """Half a step of a logit, divided by one of them, is more than exp of it can be in float64."""
    schema = KINDS[kind]
    grid = tuple(one * factor for one in schema.temperatures)
    samples = schema.samples
    if samples is not None:
        samples = dataclasses.replace(samples, temperature=samples.temperature * factor)
    low = dataclasses.replace(
        schema, temperatures=grid, samples=samples, vocab_size=min(schema.vocab_size, 300)
    )
    for scale in (0.0, 3.0, 10.0):
        window, _ = make_window(np.random.default_rng(0), low, scale=scale)
        assert list(check_window(window, "here", KNOWN)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "column", "change", "promise"),
    [
        ("steps", "label_logit", put_value(99.0), "a label logit that is the top one where"),
        ("steps", "label_logit", put_value(-99.0, LABEL), "a label logit that is that of the"),
        ("steps", "label_rank", put_value(299, LABEL), "a label's rank of at most its entry's"),
        ("steps", "label_rank", put_value(0, 0), "a label logit that is the top one where"),
        ("steps", "tail_mass_t1", put_value(1e-9), "a mass at temperature 1 that holds what was"),
        ("steps", "tail_mass_t1", put_value(0.9999), "1 that ids below the entries can have"),
        ("steps", "tail_mass_t2", put_value(1e-6), "rises from temperature 1 to 2"),
        ("steps", "sample_steps", put_value(0), "that are not above the entries"),
        ("steps", "offset", put_value(-4), "an offset that is not negative"),
        ("lossless", "sample_logits", put_value(99.0), "that are not above the top one"),
        ("lossless", "top_logit", put_value(99.0), "a first entry with the top logit"),
        ("draws", "logsumexp_t2", put_value(1.0), "logsumexps of one distribution"),
        ("draws", "logsumexp_t1", put_value(-5.0), "1 that holds what was drawn"),
    ],
)
def test_contradictions_are_reported(
    tmp_path: Path, kind: str, column: str, change: Change, promise: str
) -> None:
    store = build_store(tmp_path, **STORES[kind])
    assert verify(store.root).is_sound
    forge_column(store.root, column, change)
    expected = [problem.expected for problem in verify(store.root).problems]
    assert any(promise in one for one in expected), expected
