from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from softtargets.capture import (
    Corpus,
    Draws,
    Hybrid,
    Pins,
    Progress,
    Sampled,
    TopK,
    TopP,
    Windowing,
    build,
    build_range,
)
from softtargets.capture.identity import describe_build
from softtargets.capture.keep.selection import Selection
from softtargets.capture.unit_plan import read_plan
from softtargets.errors import (
    CorpusError,
    StoreError,
)
from softtargets.places import Directory
from softtargets.store import verify
from softtargets.store.fingerprint import fingerprint_of
from tests.fakes import FakeTeacher, build_config, build_store, shard_bytes


def test_a_store_is_built_and_sound(tmp_path: Path) -> None:
    events: list[Progress] = []
    result = build(build_config(tmp_path), FakeTeacher(), events.append)
    assert result.num_units_before == 0
    assert result.num_units == len(result.store.manifest.shards) > 3
    assert verify(result.store.root).is_sound
    names = sorted(path.name for path in result.store.root.iterdir())
    assert names == ["README.md", "manifest.json", "shards", "vocabulary.parquet"]
    assert events[0].num_windows == 0
    assert events[-1].num_windows == events[-1].all_windows == len(result.store)
    assert events[-1].num_tokens == events[-1].all_tokens == result.store.manifest.corpus["tokens"]


def test_the_bytes_do_not_depend_on_when_or_where(tmp_path: Path) -> None:
    stores = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        stores.append(build_store(tmp_path / name).root)
    assert shard_bytes(stores[0]) == shard_bytes(stores[1])
    assert (stores[0] / "manifest.json").read_bytes() == (stores[1] / "manifest.json").read_bytes()
    assert (stores[0] / "README.md").read_bytes() == (stores[1] / "README.md").read_bytes()


SELECTIONS = [
    TopK(k=3, pins=Pins(ids=(32,), label=True)),
    TopP(p=0.5, k=8),
    Sampled(draws=Draws(num=9, temperature=2.0)),
    Hybrid(k=4, draws=Draws(num=5, seed=3)),
]


@pytest.mark.slow
@pytest.mark.parametrize("temperatures", [(1.0, 2.0), (2.0, 3.0)])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_every_selection_makes_a_sound_store_whatever_the_batches(
    tmp_path: Path, selection: Selection, temperatures: tuple[float, ...]
) -> None:
    if selection.draws is not None and selection.draws.temperature not in temperatures:
        selection = dataclasses.replace(
            selection, draws=dataclasses.replace(selection.draws, temperature=2.0)
        )
    if isinstance(selection, TopP):
        selection = dataclasses.replace(selection, temperature=2.0)
    stores = []
    for batch_tokens in (16, 64):
        directory = tmp_path / str(batch_tokens)
        directory.mkdir()
        changes = {"selection": selection, "temperatures": temperatures}
        store = build_store(directory, batch_tokens=batch_tokens, values="float32", **changes)
        assert verify(store.root).is_sound
        assert store.manifest.identity["selection"]["kind"] == selection.kind
        stores.append(store)
    assert stores[0].fingerprint == stores[1].fingerprint
    for one, other in zip(*stores, strict=True):
        first, second = one.targets, other.targets
        assert np.array_equal(first.ids_TK, second.ids_TK)
        if selection.draws is not None:
            assert first.samples is not None
            assert second.samples is not None
            assert np.array_equal(first.samples.ids_S, second.samples.ids_S)
            assert np.array_equal(first.samples.counts_S, second.samples.counts_S)


@pytest.mark.slow
def test_draws_differ_between_windows_and_seeds(tmp_path: Path) -> None:
    drawn = []
    for seed in (0, 1):
        directory = tmp_path / str(seed)
        directory.mkdir()
        store = build_store(directory, selection=Sampled(draws=Draws(num=9, seed=seed)))
        drawn.append([window.targets.samples for window in store])
    different = [
        not np.array_equal(one.ids_S, other.ids_S)
        for one, other in zip(*drawn, strict=True)
        if one is not None and other is not None
    ]
    assert len(different) > 10
    assert all(different)


def test_label_logits_may_be_left_out(tmp_path: Path) -> None:
    store = build_store(tmp_path, selection=Sampled(), label_logits=False)
    assert verify(store.root).is_sound
    assert next(iter(store)).targets.label_logit_T is None


def test_what_a_dead_worker_had_begun_to_write_is_not_committed(tmp_path: Path) -> None:
    def leave_behind(_: Progress) -> None:
        name = f"unit-000001.parquet.{0:032x}.tmp"
        (tmp_path / "store" / "shards" / name).write_bytes(b"PAR1")

    store = build(build_config(tmp_path), FakeTeacher(), leave_behind).store
    names = {path.name for path in (store.root / "shards").iterdir()}
    assert names == {Path(entry.path).name for entry in store.manifest.shards}
    assert verify(store.root).is_sound


def test_a_complete_store_is_left_alone(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in [store.root, *store.root.rglob("*")]}
    teacher = FakeTeacher()
    result = build(build_config(tmp_path), teacher)
    assert result.num_units == result.num_units_before
    assert teacher.num_loads == 0
    after = {path: path.stat().st_mtime_ns for path in [store.root, *store.root.rglob("*")]}
    assert after == before


def test_the_batch_size_is_recorded_and_no_part_of_the_identity(tmp_path: Path) -> None:
    store = build_store(tmp_path, batch_tokens=48)
    assert store.manifest.shards[0].run == {"device": "cpu", "batch_tokens": 48}
    result = build(build_config(tmp_path, batch_tokens=64), FakeTeacher())
    assert result.num_units == result.num_units_before


@pytest.mark.slow
@pytest.mark.parametrize("vocab_size", [256, 49_152, 151_936, 262_144])
def test_vocabularies_of_any_size(tmp_path: Path, vocab_size: int) -> None:
    class Wide(FakeTeacher):
        """Its highest logits are those of the highest ids."""

        def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
            return super().logits(hidden_ND) + torch.arange(vocab_size)

    config = build_config(tmp_path, values="float32")
    store = build(config, Wide(vocab_size=vocab_size)).store
    assert verify(store.root).is_sound
    ids_TK = np.concatenate([window.targets.ids_TK for window in store])
    assert ids_TK.max() == vocab_size - 1
    assert ids_TK.min() > vocab_size - 100


class Allergic(FakeTeacher):
    """A teacher that gives no numbers, or fails, for windows with a certain text in them."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error
        self.num_met = 0

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        hidden_BLD = super().hidden_states(input_ids_BL)
        for row, ids in enumerate(input_ids_BL.tolist()):
            if b"remark" in bytes(ids):
                self.num_met += 1
                if self.error is not None:
                    raise self.error
                hidden_BLD[row] = torch.nan
        return hidden_BLD


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (None, "found NaN"),
        (RuntimeError("CUDA error"), "expected a unit to be scored; found RuntimeError: CUDA err"),
    ],
)
def test_a_unit_that_fails_three_times_is_reported_and_the_others_are_done(
    tmp_path: Path, error: Exception | None, message: str
) -> None:
    (tmp_path / "whole").mkdir()
    expected = shard_bytes(build_store(tmp_path / "whole").root)
    config = build_config(tmp_path)
    teacher = Allergic(error)
    seen: list[Progress] = []
    with pytest.raises(StoreError, match=r"1 that failed 3 times \(units \d\)") as caught:
        build(config, teacher, seen.append)
    assert message in str(caught.value)
    assert "corpus.jsonl:2" in str(caught.value)
    assert teacher.num_met == 3
    done = shard_bytes(config.output)
    assert len(done) == len(expected) - 1
    assert done.items() < expected.items()
    # What was read in vain is not counted.
    plan = read_plan(Directory(config.output), fingerprint_of(describe_build(config, teacher)))
    assert plan is not None
    assert seen[-1].num_tokens == seen[-1].all_tokens - next(
        unit.num_tokens for unit in plan.units if f"unit-{unit.unit:06d}.parquet" not in done
    )
    build(config, FakeTeacher())
    assert shard_bytes(config.output) == expected


def test_a_build_that_only_had_to_commit_says_so(tmp_path: Path) -> None:
    config = build_config(tmp_path)
    build_range(config, FakeTeacher(), 0, None)
    result = build(config, FakeTeacher())
    assert result.num_units_before == result.num_units
    assert not result.was_complete
    assert build(config, FakeTeacher()).was_complete


@pytest.mark.slow
def test_bad_documents_are_read_or_counted_and_none_is_lost(tmp_path: Path) -> None:
    """A raw NUL and control characters within JSON strings are text like any other."""
    rng = np.random.default_rng(0)
    long = rng.integers(32, 127, 250_000).astype(np.uint8).tobytes().replace(b"\\", b"/")
    lines = [
        b'{"text": ""}',
        b'{"text": "a"}',
        b'{"text": "' + long.replace(b'"', b"'") + b'"}',
        b'{"text": "not \xff UTF-8"}',
        b'{"text": "nul \x00 and \x1b[31m, \x07 and \\u0000 and \t tab"}',
        b'{"text": "half a pair \\ud83d"}',
        b"\x00\x00\x00",
        b"",
        b'{"text": "the last one"}',
    ]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join(lines))
    config = build_config(
        tmp_path,
        unit_tokens=1 << 16,
        windowing=Windowing(sequence_length=512),
        batch_tokens=1 << 14,
        selection=TopK(k=2),
        temperatures=(1.0,),
    )
    with pytest.raises(CorpusError, match=r"bad.jsonl, line 4: expected UTF-8"):
        build(dataclasses.replace(config, corpus=Corpus(paths=(path,))), FakeTeacher())
    corpus = Corpus(paths=(path,), on_invalid="skip")
    store = build(dataclasses.replace(config, corpus=corpus), FakeTeacher()).store
    counts = store.manifest.corpus
    assert counts["documents"] == 5
    assert counts["invalid_documents"] == 3
    assert counts["empty_documents"] == 1
    assert counts["single_tokens"] == 1
    texts: dict[str, bytes] = {}
    for window in store:
        [name] = window.document_ids
        texts[name] = texts.get(name, b"") + bytes(window.input_ids_L.tolist())
    assert texts.keys() == {"2", "4", "8"}
    assert texts["2"] == long.replace(b'"', b"'")
    assert texts["4"] == b"nul \x00 and \x1b[31m, \x07 and \x00 and \t tab"
    assert texts["8"] == b"the last one"
    assert verify(store.root).is_sound
