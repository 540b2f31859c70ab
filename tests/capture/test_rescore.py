from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softtargets.capture import (
    Corpus,
    Draws,
    Hybrid,
    Sampled,
    Threshold,
    TopK,
    Windowing,
    build,
    rescore,
)
from softtargets.capture.keep.selection import Selection
from softtargets.errors import IdentityError, InputError
from softtargets.store import Store, verify
from softtargets.store.writer import StoreWriter
from softtargets.targets import SoftTargets, pack
from softtargets.window import Window
from tests.commands import run
from tests.fakes import ByteTokenizer, FakeTeacher, build_config, build_store, write_corpus
from tests.golden import GOLDEN
from tests.train.dense import largest_tensor


class Noisy(FakeTeacher):
    """A teacher whose logits depend a little on what else is in the batch, as bfloat16 does."""

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        return super().hidden_states(input_ids_BL) * (1 + 2e-3 * len(input_ids_BL))


class OtherTokenizer(ByteTokenizer):
    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "sha256": "0" * 64}


def rewrite(store: Store, output: Path, change: Callable[[SoftTargets], SoftTargets]) -> Store:
    """Write a store that is sound in itself, with other targets for the same windows."""
    with StoreWriter.hold(output, store.manifest.identity) as writer:
        for shard in range(len(store.manifest.shards)):
            with store.open_shard(shard) as reader:
                windows = reader.read_row_group(0)
            changed = [
                Window.of(window, pack(change(window.targets), store.targets)) for window in windows
            ]
            writer.write_unit(shard, changed, {})
        writer.commit(len(store.manifest.shards), "fake", store.manifest.corpus)
    assert verify(output).is_sound
    return Store.open(output)


def shift(targets: SoftTargets) -> SoftTargets:
    """Return the targets of the position before, as an off-by-one gives them."""
    arrays = {
        field.name: np.roll(getattr(targets, field.name), 1, axis=0)
        for field in dataclasses.fields(targets)
        if isinstance(getattr(targets, field.name), np.ndarray)
    }
    return dataclasses.replace(targets, **arrays)


def distort(targets: SoftTargets) -> SoftTargets:
    """Return the targets of a teacher that is a little surer of itself."""
    return dataclasses.replace(targets, logits_TK=targets.logits_TK * np.float32(1.03))


@pytest.mark.slow
@pytest.mark.parametrize("values", ["steps", "float32"])
@pytest.mark.parametrize("teacher", [FakeTeacher(), Noisy()])
def test_a_store_agrees_with_its_teacher(tmp_path: Path, values: str, teacher: FakeTeacher) -> None:
    store = build_store(tmp_path, values=values)
    report = rescore(store.root, teacher, 20)
    assert report.holds
    assert report.num_windows == 20
    for one in report.temperatures:
        assert one.stored.kl < 1e-2
        assert 0.01 < (one.truncation_kl or 0) < 5
        assert one.draws_deviation is None
        if type(teacher) is FakeTeacher:
            assert one.live.largest < 1e-4
            assert (one.stored.largest < 1e-4) == (values == "float32")
        else:
            assert one.live.largest > 1e-3


@pytest.mark.slow
def test_what_keeping_k_entries_loses_is_measured(tmp_path: Path) -> None:
    """Against the dense distribution: an exact head, and the tail's mass spread evenly."""
    store = build_store(tmp_path, values="float32", temperatures=(2.0,))
    report = rescore(store.root, FakeTeacher(), len(store))
    losses = []
    for window in store:
        ids_1L = torch.from_numpy(window.input_ids_L.astype(np.int64))[None]
        teacher = FakeTeacher()
        logits_TV = teacher.logits(teacher.hidden_states(ids_1L)[0, :-1]).double() / 2
        p_TV = logits_TV.softmax(dim=1)
        ids_TK = torch.from_numpy(window.targets.ids_TK.astype(np.int64))
        rest_T1 = p_TV.scatter(1, ids_TK, 0).sum(dim=1, keepdim=True)
        q_TV = (rest_T1 / (300 - 8)).expand(-1, 300).scatter(1, ids_TK, p_TV.gather(1, ids_TK))
        losses.append((p_TV * (p_TV / q_TV).log()).sum(dim=1))
    expected = torch.cat(losses).mean().item()
    assert report.temperatures[0].truncation_kl == pytest.approx(expected, rel=1e-6)


def test_a_head_of_everything_loses_nothing(tmp_path: Path) -> None:
    store = build_store(tmp_path, selection=TopK(k=300), values="float32")
    report = rescore(store.root, FakeTeacher(), 5)
    assert report.holds
    losses = [one.truncation_kl for one in report.temperatures]
    assert losses == pytest.approx([0, 0], abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("change", [shift, distort])
def test_a_store_of_other_targets_is_found_out(
    tmp_path: Path, change: Callable[[SoftTargets], SoftTargets]
) -> None:
    # A label would contradict targets that are another position's.
    store = build_store(tmp_path, values="float32", label_logits=False)
    report = rescore(rewrite(store, tmp_path / "other", change).root, FakeTeacher(), 20)
    assert not report.holds
    assert all(one.stored.largest > 2 * one.live.largest for one in report.temperatures)


def shift_draws(targets: SoftTargets) -> SoftTargets:
    """Return the draws of the position before, and all else as it was."""
    samples = targets.samples
    assert samples is not None
    last = samples.num_samples_T[-1]
    rolled = {name: np.roll(getattr(samples, name), last) for name in ("ids_S", "counts_S")}
    counts_T = np.roll(samples.num_samples_T, 1)
    own = dataclasses.replace(samples, num_samples_T=counts_T, **rolled)
    return dataclasses.replace(targets, samples=own)


@pytest.mark.slow
@pytest.mark.parametrize(
    "selection", [Sampled(draws=Draws(num=12)), Hybrid(k=4), Threshold(draws=Draws(num=12))]
)
def test_draws_agree_with_their_teacher(tmp_path: Path, selection: Selection) -> None:
    store = build_store(tmp_path, selection=selection)
    report = rescore(store.root, FakeTeacher(), len(store))
    assert report.holds
    at_one, at_two = report.temperatures
    assert abs(at_one.draws_deviation or 9) < 5
    assert at_two.draws_deviation is None
    assert (at_one.truncation_kl is None) == (selection.kind == "sampled")


def take_others(targets: SoftTargets) -> SoftTargets:
    """Return as many drawn ids at each position, but likely and unlikely ones alike."""
    samples = targets.samples
    assert samples is not None
    ids: list[int] = []
    for position, count in enumerate(samples.num_samples_T):
        entries = targets.ids_TK[position, : targets.num_entries_T[position]]
        others = np.setdiff1d(np.arange(300), entries)
        ids += sorted(np.random.default_rng(position).choice(others, count, replace=False))
    own = dataclasses.replace(samples, ids_S=np.array(ids, np.int32))
    return dataclasses.replace(targets, samples=own)


@pytest.mark.slow
def test_threshold_draws_of_other_ids_are_found_out(tmp_path: Path) -> None:
    selection = Threshold(draws=Draws(num=12))
    store = build_store(tmp_path, selection=selection, temperatures=(1.0,))
    report = rescore(rewrite(store, tmp_path / "others", take_others).root, FakeTeacher(), 28)
    assert not report.holds
    assert report.temperatures[0].stored.largest < report.temperatures[0].bound
    assert (report.temperatures[0].draws_deviation or 0) < -20


@pytest.mark.slow
def test_draws_of_other_positions_are_found_out(tmp_path: Path) -> None:
    selection = Sampled(draws=Draws(num=12))
    store = build_store(tmp_path, selection=selection, temperatures=(1.0,))
    report = rescore(rewrite(store, tmp_path / "draws", shift_draws).root, FakeTeacher(), 20)
    assert not report.holds
    assert report.temperatures[0].stored.largest < 1e-4
    assert (report.temperatures[0].draws_deviation or 0) < -20
    shifted = rescore(rewrite(store, tmp_path / "sums", shift).root, FakeTeacher(), 20)
    assert not shifted.holds
    assert shifted.temperatures[0].stored.largest > 0.01


@pytest.mark.slow
def test_whole_vocabularies_exist_for_few_positions_at_once(tmp_path: Path) -> None:
    """A window of 100 tokens has 26 million logits with Gemma 3's vocabulary; a build makes 16."""
    teacher = FakeTeacher(vocab_size=262_144)
    corpus = Corpus(paths=(write_corpus(tmp_path / "long.jsonl", ["Twas brillig. " * 7]),))
    config = build_config(
        tmp_path,
        corpus=corpus,
        windowing=Windowing(sequence_length=100),
        selection=Hybrid(k=4),
        temperatures=(1.0,),
    )
    build(config, teacher)
    reports = []
    largest = largest_tensor(lambda: reports.append(rescore(config.output, teacher, 1)))
    assert reports[0].holds
    assert reports[0].num_positions > 90
    assert largest <= 1 << 23


def test_another_teacher_or_tokenizer_is_refused(store: Store) -> None:
    with pytest.raises(IdentityError, match=r"store, field teacher.weights_sha256"):
        rescore(store.root, FakeTeacher(seed=1), 5)
    teacher = FakeTeacher()
    teacher.tokenizer = OtherTokenizer()
    with pytest.raises(IdentityError, match=r"store, field tokenizer.sha256"):
        rescore(store.root, teacher, 5)
    with pytest.raises(InputError, match=r"--rescore: expected a positive number"):
        rescore(store.root, FakeTeacher(), 0)
    with pytest.raises(InputError, match="of a vocabulary and what it sums to, or class logits"):
        rescore(GOLDEN / "topk-without-tail-1.1" / "store", FakeTeacher(), 5)


@pytest.mark.slow
def test_the_command(tmp_path: Path, tiny_teacher: Path) -> None:
    (tmp_path / "text.txt").write_text("Twas brillig, and the slithy toves did gyre and gimble.")
    store = tmp_path / "store"
    built = run(
        "build", "--teacher", tiny_teacher, "--input", tmp_path / "text.txt", "--output", store,
        "--top-k", "8", "--sequence-length", "16",
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    found = run("verify", store, "--rescore", "3", "--teacher", tiny_teacher)
    assert found.exit_code == 0, found.output
    assert "live to live" in found.output
    assert "agrees with the live teacher" in found.output
    shifted = rewrite(Store.open(store), tmp_path / "shifted", shift)
    refused = run("verify", shifted.root, "--rescore", "3", "--teacher", tiny_teacher)
    assert refused.exit_code == 1
    assert "does not agree with the live teacher" in refused.output
    assert run("verify", store, "--rescore", "3").exit_code == 2
