"""Hidden states beside any selection: those of the teacher, whoever ran the unit."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from softtargets import collate, distillation_loss
from softtargets.capture import (
    Draws,
    Hybrid,
    Sampled,
    TopK,
    TopP,
    build,
    build_range,
    commit,
    estimate,
    rescore,
    stored_weights,
)
from softtargets.capture.keep.selection import Selection
from softtargets.capture.stored_weights import read_weights
from softtargets.errors import IdentityError, StoreError, TeacherError
from softtargets.store import Store, verify
from softtargets.targets import HeadWeights
from softtargets.train import OutputHead
from tests.commands import run
from tests.fakes import FakeTeacher, build_config, build_store, shard_bytes, write_corpus
from tests.store.test_codec import assert_same
from tests.windows import as_bfloat16


def files_of(store: Path) -> dict[str, bytes]:
    """Return the content of every file of a store but its manifest."""
    names = ("head.parquet", "vocabulary.parquet")
    return shard_bytes(store) | {name: (store / name).read_bytes() for name in names}


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    (tmp_path / "whole").mkdir()
    return files_of(build_store(tmp_path / "whole", hidden_states=True).root)


@pytest.mark.slow
@pytest.mark.parametrize(
    "selection",
    [TopK(k=8), TopP(k=8), Sampled(draws=Draws(num=5)), Hybrid(k=4, draws=Draws(num=5))],
)
def test_they_are_the_teachers_at_every_target(tmp_path: Path, selection: Selection) -> None:
    """And all else is as without them; shifted by one position they would differ."""
    store = build_store(tmp_path, selection=selection, hidden_states=True)
    (tmp_path / "without").mkdir()
    without = build_store(tmp_path / "without", selection=selection)
    assert verify(store.root).is_sound
    assert store.fingerprint != without.fingerprint
    teacher = FakeTeacher()
    head = OutputHead.of(store)
    for window, other in zip(store, without, strict=True):
        ids_1L = torch.from_numpy(window.input_ids_L.astype(np.int64))[None]
        hidden_LD = teacher.hidden_states(ids_1L)[0]
        stored_TD = torch.from_numpy(window.targets.features["last_hidden"].copy())
        torch.testing.assert_close(stored_TD, hidden_LD[:-1], atol=1e-5, rtol=1e-5)
        assert (stored_TD - hidden_LD[1:]).abs().max() > 0.1
        torch.testing.assert_close(head.logits(stored_TD), teacher.logits(hidden_LD)[:-1])
        targets = window.targets
        assert_same(targets.ids_TK, other.targets.ids_TK)
        assert_same(targets.logits_TK, other.targets.logits_TK)
        assert_same(targets.samples, other.targets.samples)


def test_in_packed_windows_they_are_those_of_each_document_alone(tmp_path: Path) -> None:
    from softtargets.capture import Corpus, Windowing

    corpus = Corpus(paths=(write_corpus(tmp_path / "corpus.jsonl"),))
    store = build_store(
        tmp_path, corpus=corpus, windowing=Windowing(sequence_length=200, kind="pack"),
        hidden_states=True,
    )  # fmt: skip
    assert verify(store.root).is_sound
    teacher = FakeTeacher()
    for window in store:
        start = 0
        for length in window.segment_lengths_S.tolist():
            ids_1L = torch.from_numpy(window.input_ids_L[start : start + length].astype(np.int64))
            hidden_LD = teacher.hidden_states(ids_1L[None])[0]
            own = window.targets.features["last_hidden"][start : start + length - 1]
            np.testing.assert_allclose(own, hidden_LD[:-1], atol=1e-5)
            start += length


@pytest.mark.slow
def test_it_is_the_same_store_however_it_is_built(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    config = build_config(tmp_path, hidden_states=True)
    build_range(config, FakeTeacher(), 2, None)
    with pytest.raises(StoreError, match="found 2 missing"):
        commit(config.output)
    build_range(config, FakeTeacher(), 0, 2)
    assert files_of(commit(config.output).root) == expected
    names = sorted(path.name for path in config.output.iterdir())
    assert names == ["README.md", "head.parquet", "manifest.json", "shards", "vocabulary.parquet"]
    # All find it complete.
    assert build(config, FakeTeacher()).was_complete
    assert verify(config.output).is_sound


@pytest.mark.slow
def test_workers_make_the_same_store(tmp_path: Path, expected: dict[str, bytes]) -> None:
    config = build_config(tmp_path, hidden_states=True, workers=2)
    build(config, FakeTeacher())
    assert files_of(config.output) == expected


@pytest.mark.slow
def test_an_interrupted_build_is_continued(tmp_path: Path, expected: dict[str, bytes]) -> None:
    config = build_config(tmp_path, hidden_states=True)

    def stop(_: object) -> None:
        if len(list((config.output / "work" / "records").glob("*.json"))) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(config, FakeTeacher(), stop)
    assert not (config.output / "head.parquet").exists()
    with pytest.raises(IdentityError, match=r"field targets\.(features|output_head)"):
        build(build_config(tmp_path), FakeTeacher())
    assert build(config, FakeTeacher()).num_units_before > 0
    assert files_of(config.output) == expected


class Halved(FakeTeacher):
    """A teacher in bfloat16, with all that a head may do."""

    softcap = 20.0

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"dtype": "bfloat16"}

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        return super().hidden_states(input_ids_BL).bfloat16()

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        logits_NV = torch.nn.functional.linear(hidden_ND, self._head_DV.T.bfloat16().contiguous())
        return torch.tanh(logits_NV * 0.7 / 3.0 / self.softcap) * self.softcap

    def output_head(self) -> HeadWeights:
        weight_VD = self._head_DV.T.bfloat16().float().contiguous().numpy()
        return HeadWeights(
            weight_VD=weight_VD, bias_V=None, dtype="bfloat16", scale=0.7, divisor=3.0,
            softcap=self.softcap,
        )  # fmt: skip


def test_bfloat16_takes_two_bytes_and_gives_the_very_logits(tmp_path: Path) -> None:
    config = build_config(tmp_path, hidden_states=True, selection=TopK(k=300), values="float32")
    store = build(config, Halved()).store
    assert [one.dtype for one in store.targets.features] == ["bfloat16"]
    head = OutputHead.of(store)
    for window in store:
        hidden_TD = window.targets.features["last_hidden"]
        assert_same(hidden_TD, as_bfloat16(hidden_TD))
        logits_TV = head.logits(torch.from_numpy(hidden_TD).bfloat16()).float()
        ids_TK = torch.from_numpy(window.targets.ids_TK.astype(np.int64))
        # All 300 logits were stored beside them, lossless: these are the teacher's own.
        assert torch.equal(
            logits_TV.gather(1, ids_TK), torch.from_numpy(window.targets.logits_TK.copy())
        )


def test_a_teacher_with_other_rows_than_its_vocabulary_is_refused(tmp_path: Path) -> None:
    class Short(FakeTeacher):
        def output_head(self) -> HeadWeights:
            head = super().output_head()
            return HeadWeights(weight_VD=head.weight_VD[:299], bias_V=None, dtype="float32")

    with pytest.raises(TeacherError, match=r"an output head of 300 rows, .* found 299"):
        build(build_config(tmp_path, hidden_states=True), Short())
    assert not (tmp_path / "store").exists()


def test_hidden_states_that_are_no_numbers_are_reported_with_the_documents(tmp_path: Path) -> None:
    class Infinite(FakeTeacher):
        def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
            return super().hidden_states(input_ids_BL) + torch.inf

        def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
            return super().logits(torch.zeros_like(hidden_ND))

    with pytest.raises(StoreError, match=r"hidden states of document corpus\.jsonl:0: "):
        build(build_config(tmp_path, hidden_states=True), Infinite())
    # Without hidden states nobody minds.
    build(build_config(tmp_path), Infinite())


def test_the_teacher_is_loaded_for_its_head_only(tmp_path: Path) -> None:
    teacher = FakeTeacher()
    build(build_config(tmp_path), teacher)
    assert teacher.num_loads == 1
    assert build(build_config(tmp_path), teacher).was_complete
    assert teacher.num_loads == 1


def test_beside_workers_the_parent_keeps_no_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory is given back before they load theirs: on the device they may share."""
    loaded: list[weakref.ref[FakeTeacher]] = []
    freed = []

    class Own(FakeTeacher):
        def for_worker(self, worker: int) -> FakeTeacher:
            teacher = FakeTeacher()
            loaded.append(weakref.ref(teacher))
            return teacher

    def free(device: torch.device) -> None:
        freed.append([device, *(one() for one in loaded)])

    monkeypatch.setattr(stored_weights, "free_memory", free)
    teacher = Own()
    head = read_weights(build_config(tmp_path, hidden_states=True, workers=2), teacher).head
    assert head is not None
    assert freed == [[torch.device("cpu"), None]]
    assert teacher.num_loads == 0


def test_a_head_that_does_not_fit_the_memory_is_a_typed_error(tmp_path: Path) -> None:
    class Large(FakeTeacher):
        def output_head(self) -> HeadWeights:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(TeacherError, match="enough memory on cpu for the weights to be stored"):
        build(build_config(tmp_path, hidden_states=True), Large())


def test_an_estimate_counts_the_head(tmp_path: Path) -> None:
    config = build_config(tmp_path, hidden_states=True)
    found = estimate(config, FakeTeacher(), sample_windows=1000)
    store = build(config, FakeTeacher()).store
    assert found.fingerprint == store.fingerprint
    assert found.head_bytes == 300 * 16 * 4
    assert found.num_bytes > found.bytes_per_token * found.corpus["tokens"] + 19_000
    assert estimate(build_config(tmp_path), FakeTeacher()).head_bytes == 0


def test_such_a_store_is_rescored_like_others(tmp_path: Path) -> None:
    store = build_store(tmp_path, hidden_states=True)
    assert rescore(store.root, FakeTeacher(), 5).holds


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_from_the_command_to_the_loss(tmp_path: Path, tiny_teacher: Path, dtype: str) -> None:
    """A student that is the teacher itself has no loss, at a temperature that no grid has."""
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    built = run(
        "build", "--teacher", tiny_teacher, "--input", corpus, "--output", tmp_path / "store",
        "--top-k", "8", "--sequence-length", "32", "--dtype", dtype, "--hidden-states",
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    assert f"last_hidden [32] {dtype}" in run("info", tmp_path / "store").output.replace("\n", "")
    store = Store.open(tmp_path / "store")
    assert verify(store.root).is_sound
    batch = collate(list(store)[:3])
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher, dtype=getattr(torch, dtype))
    with torch.inference_mode():
        logits = model(input_ids=batch["input_ids"]).logits
        options: dict[str, Any] = {"tail": "full", "teacher_head": OutputHead.of(store)}
        loss = distillation_loss(logits, batch, 1.7, **options)
        # Some CPUs sum the products of the 93 rows that were stored in another order than those of
        # 3 times 32. Then the loss is what float32 rounds in each log-probability, at most 5e-7.
        assert abs(loss) < (1e-6 if dtype == "float32" else 1e-3)
        assert distillation_loss(logits.roll(1, dims=1), batch, 1.7, **options) > 0.01
