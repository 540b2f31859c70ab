"""Mixtures of stores that differ: conversations with texts, and whatever else may be mixed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from softtargets import Mixture, SoftTargetDataset, Store, collate, distillation_loss
from softtargets.capture import Corpus, Hybrid, TopK, Windowing
from softtargets.errors import IdentityError, InputError
from softtargets.kinds import FeatureSchema, HeadSchema, SampleSchema, TargetSchema
from softtargets.stream.batch import IGNORE_INDEX, Batch
from softtargets.stream.repack import repack
from tests.fakes import TEXTS, build_store
from tests.golden import GOLDEN, write_store
from tests.stream.resume import WRONG, fuzz_resume
from tests.windows import KINDS, make_window, topk_schema

LENGTHS = (9, 5, 12, 3, 7, 4, 11)
FILLS = {"labels": IGNORE_INDEX, "tail_mass": 1}
"""What stands in a batch where a window has nothing, if it is not 0."""

_WITH_HEAD = KINDS["with-output-head"]
MIXED = {
    name: KINDS[name]
    for name in ("topk", "topk-lossless", "sampled", "sampled-with-logits", "hybrid")
} | {"hidden-states": replace(_WITH_HEAD, features=_WITH_HEAD.features[:1])}


def make_store(path: Path, schema: TargetSchema, lengths: Sequence[int], seed: int = 0) -> Store:
    rng = np.random.default_rng(seed)
    windows = [
        make_window(rng, schema, num_tokens=length, trained=0.8, ruled_out=0.2)[0]
        for length in lengths
    ]
    units = [windows[at : at + 3] for at in range(0, len(windows), 3)]
    return write_store(path, schema, units, corpus=path.name)


def two_stores(directory: Path, schema: TargetSchema) -> list[Store]:
    """A store with a target at every position, and one that lists its positions."""
    listed = replace(schema, positions="listed")
    return [
        make_store(directory / "texts", schema, LENGTHS, seed=1),
        make_store(directory / "chats", listed, LENGTHS[::-1], seed=2),
    ]


def each_alone(stores: Sequence[Store], **options: Any) -> dict[str, Batch]:
    """Return a batch of every window, from its store alone."""
    alone = (SoftTargetDataset(store, batch_size=1, **options) for store in stores)
    return {batch["window_id"][0]: batch for dataset in alone for batch in dataset}


def assert_rows_are(batch: Batch, alone: dict[str, Batch]) -> None:
    """Compare every array of a batch with those of batches of one window, padded."""
    for row, window_id in enumerate(batch["window_id"]):
        own = alone[window_id]
        assert set(batch) ^ set(own) <= {"epoch", "next_place"}
        for name, value in batch.items():
            if not isinstance(value, torch.Tensor):
                continue
            wanted = torch.full_like(value[row], FILLS.get(name, 0))
            wanted[tuple(slice(size) for size in own[name].shape[1:])] = own[name][0]
            assert torch.equal(value[row], wanted), name
        is_weighed = "sample_ids" not in batch or "sample_logits" in batch
        # Draws without logits have weights at their own temperature alone.
        grid = batch["temperatures"] if is_weighed else [batch["sample_temperature"]]
        for temperature in grid:
            targets, wanted_targets = (one.soft_targets(temperature) for one in (batch, own))
            num_tokens = own["input_ids"].shape[1]
            for name in ("ids", "logprobs", "tail_logmass", "mask", "sample_weights"):
                found, wanted = (getattr(one, name) for one in (targets, wanted_targets))
                if wanted is not None:
                    own_row = found[row, :num_tokens]
                    own_row = own_row[..., : wanted.shape[-1]] if wanted.dim() == 3 else own_row
                    assert torch.equal(own_row, wanted[0]), name


def kinds_of(batch: Batch, stores: Sequence[Store]) -> set[int]:
    """Return which of the stores the windows of a batch are of."""
    owners = {one: number for number, store in enumerate(stores) for one in store.window_ids()}
    return {owners[one] for one in batch["window_id"] if one}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MIXED)
def test_a_mixed_batch_has_what_each_store_alone_gives(tmp_path: Path, kind: str) -> None:
    stores = two_stores(tmp_path, MIXED[kind])
    alone = each_alone(stores)
    dataset = SoftTargetDataset(Mixture(stores), shuffle=True, seed=1, batch_size=4)
    found = set()
    for batch in dataset:
        found.add(len(kinds_of(batch, stores)))
        own = [row for row, window_id in enumerate(batch["window_id"]) if window_id]
        assert batch["num_targets"] == int(batch["target_mask"].sum())
        if len(own) == len(batch["window_id"]):
            assert_rows_are(batch, alone)
    assert 2 in found


@pytest.mark.slow
@pytest.mark.parametrize("kind", MIXED)
def test_windows_of_both_kinds_are_collated_as_their_rows_are(tmp_path: Path, kind: str) -> None:
    stores = two_stores(tmp_path, MIXED[kind])
    windows = [window for pair in zip(*stores, strict=True) for window in pair]
    assert_rows_are(collate(windows), each_alone(stores))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"top_k": 3}, {"temperatures": [2.0]}, {"top_k": 2}])
def test_fewer_entries_or_temperatures_of_a_mixture(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    stores = two_stores(tmp_path, topk_schema())
    alone = each_alone(stores, **options)
    for batch in SoftTargetDataset(Mixture(stores), batch_size=7, **options):
        assert_rows_are(batch, alone)
    loader: DataLoader[Any] = DataLoader(
        SoftTargetDataset(Mixture(stores), **options), batch_size=7, collate_fn=collate
    )
    for batch in loader:
        assert_rows_are(batch, alone)


def test_a_mixed_batch_is_laid_out_anew_like_the_batches_it_is_made_of(tmp_path: Path) -> None:
    stores = two_stores(tmp_path, KINDS["hybrid"])
    batch = next(iter(SoftTargetDataset(Mixture(stores), batch_size=14)))
    packed = repack(batch, 24)
    assert packed["num_targets"] == batch["num_targets"]
    alone = each_alone(stores)
    for row, pieces in enumerate(packed["pieces"]):
        for piece in pieces:
            own = alone[piece.window_id]
            here = slice(piece.column, piece.column + piece.num_tokens)
            for name in ("input_ids", "target_mask", "tail_mass", "steps", "id_plane_0"):
                assert torch.equal(packed[name][row, here], own[name][0]), name


@pytest.mark.slow
def test_resuming_a_mixture_of_both_kinds_loses_and_doubles_nothing(tmp_path: Path) -> None:
    mixture = Mixture(two_stores(tmp_path, KINDS["hybrid"]), [1, 2], epoch_windows=20)
    counts = fuzz_resume(mixture, num_cases=25, max_workers=0, seed=0)
    assert counts["stops"] > 25
    assert {name: counts[name] for name in WRONG} == dict.fromkeys(WRONG, 0)


@pytest.mark.slow
def test_workers_resume_a_mixture_of_both_kinds(tmp_path: Path) -> None:
    mixture = Mixture(two_stores(tmp_path, KINDS["hybrid"]), [1, 2], epoch_windows=20)
    counts = fuzz_resume(mixture, num_cases=4, max_workers=2, seed=1)
    assert counts["with workers"] > 2
    assert {name: counts[name] for name in WRONG} == dict.fromkeys(WRONG, 0)


def conversations(path: Path) -> Path:
    """Write conversations whose answers are the texts."""
    talks = [
        [{"role": "user", "content": "What happened?"}, {"role": "assistant", "content": text}]
        for text in TEXTS
    ]
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("selection", [TopK(k=8), Hybrid(k=4)])
@pytest.mark.parametrize("windowing", ["split", "pack"])
def test_built_stores_of_conversations_and_texts_train_together(
    tmp_path: Path, selection: Any, windowing: Any
) -> None:
    (tmp_path / "chats").mkdir()
    (tmp_path / "texts").mkdir()
    corpus = Corpus(paths=(conversations(tmp_path / "c.jsonl"),), messages_field="messages")
    options = {"windowing": Windowing(kind=windowing, sequence_length=64), "selection": selection}
    chats = build_store(tmp_path / "chats", corpus=corpus, **options)
    texts = build_store(tmp_path / "texts", **options)
    assert (chats.targets.positions, texts.targets.positions) == ("listed", "all")
    alone = each_alone([chats, texts])
    torch.manual_seed(0)
    embedding_VV = torch.randn((300, 300))
    num_mixed = 0
    for batch in SoftTargetDataset(Mixture([chats, texts]), shuffle=True, batch_size=4):
        rows = [alone[one] for one in batch["window_id"] if one]
        sums = [
            distillation_loss(embedding_VV[one["input_ids"]], one) * one["num_targets"]
            for one in rows
        ]
        wanted = torch.stack(sums).sum() / sum(one["num_targets"] for one in rows)
        found = distillation_loss(embedding_VV[batch["input_ids"]], batch)
        torch.testing.assert_close(found, wanted)
        num_mixed += len(kinds_of(batch, [chats, texts])) == 2
    assert num_mixed > 0


def needless_differences() -> Iterator[tuple[str, TargetSchema, TargetSchema, list[str]]]:
    """Yield what may differ, schemas that do, and what a batch then leaves out."""
    plain = topk_schema()
    yield "metadata", plain, replace(plain, metadata=("language", "url")), []
    unlabelled = replace(plain, label_logits=False)
    yield "label logits", plain, unlabelled, ["label_logit", "label_rank"]
    yield "temperatures", plain, replace(plain, temperatures=(4.0, 2.0)), []
    yield "order of temperatures", plain, replace(plain, temperatures=(2.0, 1.0)), []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "other", "left_out"),
    [one[1:] for one in needless_differences()],
    ids=[one[0] for one in needless_differences()],
)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("as_rows", [False, True])
def test_what_a_batch_does_not_need_may_differ(
    tmp_path: Path,
    first: TargetSchema,
    other: TargetSchema,
    left_out: list[str],
    turned: bool,
    as_rows: bool,
) -> None:
    stores = [
        make_store(tmp_path / "first", first, LENGTHS, seed=1),
        make_store(tmp_path / "other", replace(other, positions="listed"), LENGTHS, seed=2),
    ]
    stores = stores[::-1] if turned else stores
    mixture = Mixture(stores)
    kept = set(first.temperatures) & set(other.temperatures)
    assert set(mixture.targets.temperatures) == kept
    alone = {
        window_id: batch
        for store in stores
        for window_id, batch in each_alone(
            [store], temperatures=list(mixture.targets.temperatures)
        ).items()
    }
    for batch in alone.values():
        # In the order of the first store of the mixture.
        order = [batch["temperatures"].index(one) for one in mixture.targets.temperatures]
        batch["tail_mass"] = batch["tail_mass"][..., order]
        batch["temperatures"] = mixture.targets.temperatures
        for name in left_out:
            batch.pop(name, None)
    if as_rows:
        batches: Any = SoftTargetDataset(mixture, batch_size=7)
    else:
        batches = DataLoader(SoftTargetDataset(mixture), batch_size=7, collate_fn=collate)
    for batch in batches:
        assert_rows_are(batch, alone)


def test_releases_compressions_and_window_lengths_may_differ(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    schema = KINDS["topk"]
    windows = [make_window(rng, schema, num_tokens=40)[0] for _ in range(3)]
    new = write_store(
        tmp_path / "new",
        schema,
        [windows],
        corpus="another",
        changes={
            "compression": "lz4",
            "windowing": {"kind": "pack", "sequence_length": 64},
            "unit_tokens": 99,
        },
    )
    old = [Store.open(GOLDEN / name / "store") for name in ("topk-1.1", "topk-1.2")]
    assert {store.manifest.format_version for store in (*old, new)} >= {"1.1", "1.3"}
    stores = [*old, new]
    alone = each_alone(stores)
    for batch in SoftTargetDataset(Mixture(stores), batch_size=len(new) + 2 * len(old[0])):
        assert_rows_are(batch, alone)


def hidden(name: str) -> FeatureSchema:
    return FeatureSchema(name=name, width=4, rows="targets", dtype="float32")


NEEDED = [
    ("vocab_size", {"vocab_size": 400}, "one vocabulary"),
    ("tokenizer_vocab_size", {"tokenizer_vocab_size": 299}, "one tokenizer"),
    ("head", {"head": HeadSchema(max_entries=9)}, "--top-k"),
    ("head", {"head": HeadSchema(max_entries=8, values="float32")}, "--values"),
    ("head", {"head": None, "features": (hidden("last_hidden"),)}, "--select"),
    (
        "samples",
        {"samples": SampleSchema(num_draws=4, origin="tail", temperature=1.0)},
        "--draws",
    ),
    ("features", {"features": (hidden("last_hidden"),)}, "--hidden-states"),
    ("predicts", {"predicts": "token", "label_logits": False}, "a dataset of its own"),
    ("encoder_input", {"encoder_input": True}, "a dataset of its own"),
    ("temperatures", {"temperatures": (3.0,)}, "--temperature"),
    ("temperatures", {"temperatures": ()}, "--temperature"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("field", "changes", "advice"), NEEDED)
@pytest.mark.parametrize("turned", [False, True])
def test_what_a_batch_needs_must_be_alike(
    tmp_path: Path, field: str, changes: dict[str, Any], advice: str, turned: bool
) -> None:
    schemas = [topk_schema(), replace(topk_schema(), **changes)]
    schemas = schemas[::-1] if turned else schemas
    stores = [
        make_store(tmp_path / f"{number}", schema, LENGTHS[:3])
        for number, schema in enumerate(schemas)
    ]
    with pytest.raises(IdentityError, match=rf"Mixture, {field} of .*{advice}"):
        Mixture(stores)
    with pytest.raises(InputError, match=rf"collate: expected {field} .*{advice}"):
        collate([next(iter(store)) for store in stores])


def test_temperatures_that_only_pairs_of_stores_share_are_refused(tmp_path: Path) -> None:
    grids = ((1.0, 2.0), (1.0,), (2.0,))
    stores = [
        make_store(tmp_path / f"{number}", topk_schema(temperatures=grid), LENGTHS[:3])
        for number, grid in enumerate(grids)
    ]
    assert Mixture(stores[:2]).targets.temperatures == (1.0,)
    with pytest.raises(IdentityError, match=r"temperatures of .*expected \[1.0\]"):
        Mixture(stores)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    stores = two_stores(tmp_path, topk_schema())
    other = write_store(
        tmp_path / "other",
        topk_schema(),
        [[make_window(np.random.default_rng(0))[0]]],
        changes={"tokenizer": {"sha256": "e" * 64, "vocab_size": 300}},
    )
    with pytest.raises(IdentityError, match=r"Mixture, tokenizer of .*one tokenizer"):
        Mixture([*stores, other])
