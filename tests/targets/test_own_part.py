"""A part that the package knows nothing of, from packing to a batch: no list has to name it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from softtargets import (
    Mixture,
    SoftTargetDataset,
    Store,
    collate,
    distillation_loss,
    repack,
    verify,
)
from softtargets.capture import Keep, Segment, Selected, build
from softtargets.errors import CorruptionError, FormatError, IdentityError, InputError
from softtargets.store.derivation import merge_stores
from softtargets.targets import Column, OwnPart, Range, TargetSchema, pack, register
from softtargets.targets.own_part import REGISTERED
from softtargets.window import Window
from tests.corruptions import forge_column, put
from tests.fakes import FakeTeacher, build_config
from tests.golden import write_store
from tests.windows import make_targets, make_tokens, topk_schema

LENGTHS = (9, 5, 12, 3, 7)


@dataclass(frozen=True, slots=True)
class Surprise(OwnPart):
    """How far the label was from what the teacher thought likeliest, at each position."""

    key: ClassVar[str] = "surprise"
    unit: str = "nats"

    def columns(self) -> Sequence[Column]:
        within = Range(0, 1000, "surprises from 0 to 1000")
        words = f"how surprising the label was, in {self.unit}"
        return [Column("surprise", "float32", "targets", words, within=within)]


SCHEMA = replace(topk_schema(), others=(Surprise(unit="bits"),))


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    register(Surprise)
    yield
    del REGISTERED[Surprise.key]


def make_window(rng: np.random.Generator, schema: TargetSchema, num_tokens: int) -> Window:
    """Return a window whose surprise is what its label's logit says of it."""
    tokens = make_tokens(rng, schema, num_tokens, 0.8)
    targets = make_targets(rng, schema, tokens, 3.0, 0.0)
    if schema.others:
        assert targets.label_logit_T is not None
        surprise_T = targets.logits_TK[:, 0] - targets.label_logit_T
        targets = replace(targets, others={"surprise": surprise_T})
    return Window.of(tokens, pack(targets, schema))


def make_store(path: Path, schema: TargetSchema = SCHEMA, seed: int = 0) -> Store:
    rng = np.random.default_rng(seed)
    windows = [make_window(rng, schema, length) for length in LENGTHS]
    return write_store(path, schema, [windows[:3], windows[3:]], corpus=path.name)


def test_it_is_stored_and_read(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    assert store.targets == SCHEMA
    assert verify(store.root).is_sound
    table = pq.read_table(store.root / store.manifest.shards[0].path)
    assert table.column_names[-1] == "surprise"
    for row, window in enumerate(list(store)[:3]):
        targets = window.targets
        assert targets.label_logit_T is not None
        expected_T = targets.logits_TK[:, 0] - targets.label_logit_T
        np.testing.assert_array_equal(targets.others["surprise"], expected_T)
        assert table.column("surprise")[row].as_py() == expected_T.tolist()
    card = (store.root / "README.md").read_text()
    assert "| `surprise` | float [T]: how surprising the label was, in bits |" in card
    merged = merge_stores([store.root, make_store(tmp_path / "other", seed=1).root], tmp_path / "m")
    assert len(merged) == 2 * len(store)
    assert verify(merged.root).is_sound


class Surprised(FakeTeacher):
    """A teacher that tells how surprising each label was."""

    own_parts = (Surprise(),)

    def capture(self, segments: Sequence[Segment], keep: Keep) -> Selected:
        selected = super().capture(segments, keep)
        assert selected.label_logit_N is not None
        surprise_N = selected.logits_NK[:, 0] - selected.label_logit_N
        return replace(selected, others={"surprise": surprise_N})


@pytest.mark.slow
def test_a_build_stores_what_its_teacher_gives(tmp_path: Path) -> None:
    store = build(build_config(tmp_path, values="float32"), Surprised()).store
    assert store.targets.others == (Surprise(),)
    assert verify(store).is_sound
    for window in store:
        targets = window.targets
        assert targets.label_logit_T is not None
        expected_T = targets.logits_TK[:, 0] - targets.label_logit_T
        np.testing.assert_array_equal(targets.others["surprise"], expected_T)
    batch = collate(list(store)[:3])
    assert batch["surprise"][batch["target_mask"]].max() > 0
    assert distillation_loss(torch.zeros((*batch["input_ids"].shape, 300)), batch).isfinite()


def test_a_teacher_that_does_not_give_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Surprised, "capture", FakeTeacher.capture)
    with pytest.raises(InputError, match="found other targets: surprise"):
        build(build_config(tmp_path), Surprised())


def test_values_out_of_its_range_are_found(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    forge_column(store.root, "surprise", put(-1.0))
    [problem] = verify(store.root).problems
    assert problem.expected == "surprises from 0 to 1000"
    with pytest.raises(CorruptionError, match="column surprise: expected surprises from 0"):
        list(Store.open(store.root))


def test_it_must_be_there_if_the_schema_says_so(rng: np.random.Generator) -> None:
    window = make_window(rng, SCHEMA, 6)
    for targets, schema in (
        (replace(window.targets, others={}), SCHEMA),
        (window.targets, topk_schema()),
    ):
        with pytest.raises(InputError, match="found other targets: surprise"):
            pack(targets, schema)


@pytest.mark.parametrize("as_rows", [True, False])
def test_a_batch_has_it(tmp_path: Path, as_rows: bool) -> None:
    store = make_store(tmp_path / "store")
    if as_rows:
        [batch] = SoftTargetDataset(store, batch_size=len(store))
    else:
        batch = collate(list(store))
    found = batch["surprise"]
    assert found.dtype == torch.float32
    assert found.shape == batch["input_ids"].shape
    for row, window_id in enumerate(batch["window_id"]):
        surprise_T = torch.from_numpy(store[window_id].targets.others["surprise"].copy())
        assert torch.equal(found[row, : len(surprise_T)], surprise_T)
        assert (found[row, len(surprise_T) :] == 0).all()
    assert batch.schema == SCHEMA
    batch.check()
    for wrong in (found.bfloat16(), found[:, :-1]):
        with pytest.raises(InputError, match="Batch, surprise"):
            type(batch)({**batch, "surprise": wrong}).check()


def test_it_moves_with_its_tokens_when_rows_are_packed(tmp_path: Path) -> None:
    [batch] = SoftTargetDataset(make_store(tmp_path / "store"), batch_size=len(LENGTHS))
    packed = repack(batch, 24)
    rows = {window_id: row for row, window_id in enumerate(batch["window_id"])}
    for row, pieces in enumerate(packed["pieces"]):
        for piece in pieces:
            own = packed["surprise"][row, piece.column : piece.column + piece.num_tokens]
            source = batch["surprise"][rows[piece.window_id], : piece.num_tokens]
            assert torch.equal(own, source)


def test_stores_with_and_without_it_share_no_batch(tmp_path: Path) -> None:
    stores = [make_store(tmp_path / "with"), make_store(tmp_path / "without", topk_schema(), 1)]
    with pytest.raises(IdentityError, match="Mixture, surprise of"):
        Mixture(stores)


def test_a_store_with_a_part_nobody_registered_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    own = REGISTERED.pop(Surprise.key)
    try:
        with pytest.raises(FormatError, match="surprise"):
            Store.open(store.root)
    finally:
        register(own)
