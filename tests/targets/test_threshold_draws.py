"""Threshold draws, entries in lists, and steps of grid and label come back from their columns."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from softtargets.errors import CorruptionError, InputError
from softtargets.store.codec import decode, decode_rows, encode
from softtargets.store.invariants import check_window
from softtargets.store.schema import arrow_schema
from softtargets.targets import (
    DrawsSchema,
    EntriesSchema,
    Origin,
    PackedTargets,
    SoftTargets,
    TargetSchema,
    pack,
)
from softtargets.window import Window
from tests.threshold import threshold_in_numpy
from tests.windows import KINDS, KINDS_OF_1_3, make_window

INVALID = Path(__file__).parents[1] / "store" / "invalid"
CAPTURED = Origin(is_tail_exact=True, keeps_highest=True)
THRESHOLD = [kind for kind in KINDS_OF_1_3 if kind.startswith("threshold")]
GRID_STEP, LABEL_STEP, STEP = 1 / 64, 1 / 16, 1 / 16


def schema_of(
    num_draws: int, vocab_size: int, *, in_steps: bool, has_logits: bool, has_top: bool
) -> TargetSchema:
    values = "steps" if in_steps else "float32"
    return TargetSchema(
        vocab_size=vocab_size,
        tokenizer_vocab_size=vocab_size,
        temperatures=(1.0, 2.0) if has_logits else (1.0,),
        head=EntriesSchema(
            max_entries=min(num_draws, vocab_size),
            values=values,  # type: ignore[arg-type]
            step=STEP,
            form="lists",
            top_logit=has_top,
        ),
        samples=DrawsSchema(
            num_draws=num_draws,
            origin="tail",
            temperature=1.0,
            values=values if has_logits else "none",  # type: ignore[arg-type]
            step=STEP,
            design="threshold",
        ),
        grid_step=GRID_STEP,
        label_logits=True,
        label_step=LABEL_STEP,
    )


def select(schema: TargetSchema, logits_TV: np.ndarray, seed: int = 0) -> SoftTargets:
    rng = np.random.default_rng(seed)
    labels_T = rng.integers(0, schema.vocab_size, len(logits_TV))
    assert schema.head is not None
    assert schema.samples is not None
    uniform_T = rng.random(len(logits_TV))
    return threshold_in_numpy(
        logits_TV, labels_T, uniform_T, schema.head, schema.samples, schema.temperatures
    )


def assert_within_steps(found: SoftTargets, given: SoftTargets, schema: TargetSchema) -> None:
    """Compare what is exact, and what is rounded by what it may be off."""
    assert schema.head is not None
    assert found.samples is not None
    assert given.samples is not None
    for name in ("ids_TK", "num_entries_T", "label_rank_T"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name), name)
    for name in ("num_samples_T", "ids_S", "counts_S"):
        np.testing.assert_array_equal(getattr(found.samples, name), getattr(given.samples, name))
    is_relative = schema.head.values == "steps" and not schema.head.top_logit
    top_T = given.logits_TK[:, 0].astype(np.float64) if is_relative else np.zeros(len(given))
    step = schema.head.step or 0
    kept_TK = np.isfinite(given.logits_TK)
    np.testing.assert_array_equal(np.isfinite(found.logits_TK), kept_TK)
    off_TK = np.where(kept_TK, found.logits_TK, 0) - np.where(
        kept_TK, given.logits_TK - top_T[:, None], 0
    )
    assert np.abs(off_TK).max(initial=0) <= step / 2 + 1e-4
    assert found.label_logit_T is not None
    assert given.label_logit_T is not None
    is_none_T = given.label_logit_T == -np.inf
    np.testing.assert_array_equal(found.label_logit_T == -np.inf, is_none_T)
    own_T = np.where(is_none_T, 0, given.label_logit_T) - top_T
    off_T = (np.where(is_none_T, 0, found.label_logit_T) - own_T)[~is_none_T]
    assert np.abs(off_T).max(initial=0) <= LABEL_STEP / 2 + 1e-4
    np.testing.assert_array_equal(found.tail_mass_TG == 0, given.tail_mass_TG == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        for log in (np.log, lambda mass: np.log1p(-mass)):
            pair = [log(one.tail_mass_TG.astype(np.float64)) for one in (found, given)]
            off_TG = np.where(given.tail_mass_TG == 0, 0, pair[0] - pair[1])
            assert np.abs(off_TG).max(initial=0) <= GRID_STEP / 2 * (1 + 1e-5) + 1e-6
    if given.samples.logits_S is not None:
        assert found.samples.logits_S is not None
        own_S = given.samples.logits_S - np.repeat(top_T, given.samples.num_samples_T)
        assert np.abs(found.samples.logits_S - own_S).max(initial=0) <= step / 2 + 1e-4


@pytest.mark.slow
@given(
    num_draws=st.integers(1, 12),
    vocab_size=st.integers(1, 40),
    num_positions=st.integers(0, 6),
    scale=st.sampled_from([0.0, 0.3, 3.0, 30.0]),
    ruled_out=st.sampled_from([0.0, 0.5, 1.0]),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 1 << 16),
)
@example(1, 1, 3, 1.0, 0.0, (True, True, False), 0)  # One id: all is kept, and nothing is left.
@example(12, 12, 4, 0.0, 0.0, (True, True, False), 0)  # All ids are exactly at the threshold.
@example(1, 40, 4, 3.0, 0.0, (True, False, False), 1)  # One draw: nothing reaches 1 but a lone id.
@example(9, 40, 5, 3.0, 1.0, (False, True, False), 2)  # All ids but one are ruled out: R is 0.
def test_targets_come_back_within_what_they_were_rounded_by(
    num_draws: int,
    vocab_size: int,
    num_positions: int,
    scale: float,
    ruled_out: float,
    flags: tuple[bool, bool, bool],
    seed: int,
) -> None:
    in_steps, has_logits, has_top = flags
    schema = schema_of(
        num_draws, vocab_size, in_steps=in_steps, has_logits=has_logits, has_top=has_top
    )
    rng = np.random.default_rng(seed)
    shape = num_positions, vocab_size
    logits_TV = (scale * rng.standard_normal(shape)).astype(np.float32)
    is_out_TV = rng.random(shape) < ruled_out
    is_out_TV[:, rng.integers(vocab_size)] = False
    targets = select(schema, np.where(is_out_TV, np.float32(-np.inf), logits_TV), seed)
    packed = pack(targets, schema)
    found = packed.unpack()
    assert_within_steps(found, targets, schema)
    # What was rounded once is not rounded again.
    again = pack(found, schema)
    for name, cell in packed.cells.items():
        np.testing.assert_array_equal(again.cells[name], cell, name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS_OF_1_3)
def test_what_was_captured_does_not_contradict_itself(rng: np.random.Generator, kind: str) -> None:
    for scale in (0.5, 3.0, 12.0):
        for ruled_out in (0.0, 0.3):
            window, _ = make_window(
                rng, KINDS[kind], num_tokens=60, scale=scale, ruled_out=ruled_out
            )
            assert list(check_window(window, "here", CAPTURED)) == []


@pytest.mark.parametrize("kind", KINDS_OF_1_3)
def test_a_table_without_rows_has_no_windows(rng: np.random.Generator, kind: str) -> None:
    schema = KINDS[kind]
    table = encode([make_window(rng, schema)[0]], arrow_schema(schema, "f" * 64, 0)).slice(0, 0)
    assert decode(table, schema, "here") == []
    assert decode_rows(table, schema, "here") == []


def changed(window: Window, **cells: np.ndarray) -> Window:
    packed = window.packed
    own = {name: cells.get(name, cell) for name, cell in packed.cells.items()}
    return dataclasses.replace(
        window,
        packed=PackedTargets(schema=packed.schema, num_positions=len(packed), cells=own),
    )


def replaced_at(array: np.ndarray, place: int, value: Any) -> np.ndarray:
    copy = array.copy()
    copy[place] = value
    return copy


def found_in(window: Window, origin: Origin = CAPTURED) -> str:
    return "\n".join(one.expected for one in check_window(window, "here", origin))


def test_forged_targets_contradict_themselves(rng: np.random.Generator) -> None:
    kind = "threshold-of-two-temperatures"
    window, _ = make_window(rng, KINDS[kind], num_tokens=60, scale=3.0)
    cells, targets = window.packed.cells, window.targets
    assert targets.samples is not None
    several = int(np.flatnonzero(targets.num_entries_T > 2)[0])
    last = int(np.cumsum(targets.num_entries_T - 1)[several]) - 1
    lower = replaced_at(cells["entry_steps"], last, 400)
    assert "entries but the first of at least 1/24" in found_in(changed(window, entry_steps=lower))
    higher = replaced_at(cells["drawn_steps"], 0, 0)
    assert "drawn ids below 1/24" in found_in(changed(window, drawn_steps=higher))
    grown = cells["tail_odds_t2"] + 64
    assert "as many drawn ids as a tail" in found_in(changed(window, tail_odds_t2=grown))
    at = int(np.flatnonzero(targets.samples.num_samples_T > 0)[0])
    first = int(targets.samples.num_samples_T[:at].sum())
    own_id = int(targets.ids_TK[at, 0])
    beside = replaced_at(cells["drawn_ids"], first, own_id)
    twin = changed(window, drawn_ids=beside)
    if int(twin.packed.cells["drawn_ids"].max()) < 300:
        assert found_in(twin) != ""
    assert found_in(window) == ""


@pytest.mark.parametrize("name", ["entry_ids", "entry_steps", "drawn_ids", "drawn_steps"])
def test_lists_of_another_length_are_refused(rng: np.random.Generator, name: str) -> None:
    schema = KINDS["threshold-of-two-temperatures"]
    windows = [make_window(rng, schema, num_tokens=20)[0] for _ in range(2)]
    short = changed(windows[0], **{name: windows[0].packed.cells[name][:-1]})
    with pytest.raises(CorruptionError):
        _ = short.targets
    # What one row lacks another has: the sums are right, and no row is.
    long = changed(windows[1], **{name: np.append(windows[1].packed.cells[name], np.int32(0))})
    table = encode([short, long], arrow_schema(schema, "f" * 64, 0))
    for read in (decode, decode_rows):
        with pytest.raises(CorruptionError, match=f"row 0, column {name}"):
            read(table, schema, "here")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("num_entries", 0),
        ("num_entries", 25),
        ("entry_ids", 300),
        ("entry_ids", -1),
        ("entry_steps", -1),
        ("num_drawn", -1),
        ("num_drawn", 25),
        ("drawn_ids", -1),
        ("drawn_ids", 300),
        ("drawn_steps", -1),
        ("tail_odds_t1", 1066),
        ("tail_odds_t1", -6700),
        ("tail_odds_t2", -(1 << 31) + 1),
        ("label_steps", -1),
        ("label_rank", 300),
    ],
)
def test_numbers_that_the_format_has_not_are_refused(
    rng: np.random.Generator, column: str, value: int
) -> None:
    schema = KINDS["threshold-of-two-temperatures"]
    window, _ = make_window(rng, schema, num_tokens=20)
    forged = changed(window, **{column: replaced_at(window.packed.cells[column], 0, value)})
    table = encode([forged], arrow_schema(schema, "f" * 64, 0))
    for read in (decode, decode_rows):
        with pytest.raises(CorruptionError, match=r"row 0"):
            read(table, schema, "here")
    assert found_in(forged) != ""


def test_what_lists_cannot_hold_is_refused(rng: np.random.Generator) -> None:
    schema = KINDS["threshold-of-two-temperatures"]
    _, targets = make_window(rng, schema, num_tokens=20)
    assert targets.samples is not None
    samples, label_T = targets.samples, targets.label_logit_T
    assert label_T is not None
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("from 1 to 24 entries", {"num_entries_T": targets.num_entries_T * 0}),
        ("finite logits", {"logits_TK": targets.logits_TK * np.float32(np.nan)}),
        ("tail masses from 0 to below 1", {"tail_mass_TG": targets.tail_mass_TG * 0 + 1}),
        ("labels at most", {"label_logit_T": label_T + 100}),
        ("labels at most", {"label_logit_T": label_T * np.float32(np.nan)}),
        ("each drawn once", {"samples": dataclasses.replace(samples, counts_S=samples.ids_S + 2)}),
        ("each once", {"samples": dataclasses.replace(samples, ids_S=samples.ids_S * 0)}),
    ]
    for words, fields in wrong:
        with pytest.raises(InputError, match=words):
            pack(dataclasses.replace(targets, **fields), schema)


def test_a_label_without_probability_comes_back(rng: np.random.Generator) -> None:
    schema = KINDS["threshold-of-two-temperatures"]
    window, targets = make_window(rng, schema, num_tokens=80, ruled_out=1.0)
    assert targets.label_logit_T is not None
    is_none_T = targets.label_logit_T == -np.inf
    assert is_none_T.any()
    np.testing.assert_array_equal(window.targets.label_logit_T == -np.inf, is_none_T)


@pytest.mark.parametrize(
    ("name", "promise"),
    [
        ("threshold-draws-beside-planes", "threshold draws beside a head in lists"),
        ("threshold-draws-of-all", "threshold draws from the tail"),
        ("grid-step-without-head", "steps of the grid only beside a head"),
        ("label-step-without-label-logits", "a label's step only beside a head"),
        ("relative-head-beside-label-logits", "labels in steps beside a head without its top"),
        ("relative-head-beside-lossless-draws", "draws in steps, or without logits, beside"),
        ("lossless-planes-without-top-logit", "a head without its top logit in steps, or in"),
    ],
)
def test_what_the_json_schema_refuses_the_schema_refuses_too(name: str, promise: str) -> None:
    data = json.loads((INVALID / f"targets-{name}.json").read_text())
    with pytest.raises(InputError, match=promise):
        TargetSchema.from_dict(data["identity"]["targets"])
