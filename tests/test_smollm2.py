"""The whole pipeline against a real teacher: what is stored, and what the model itself says."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Literal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from softtargets import (
    SoftTargetDataset,
    Store,
    collate,
    distillation_loss,
    student_inputs,
    verify,
)
from softtargets.capture import (
    BuildConfig,
    Corpus,
    TeacherConfig,
    TopK,
    TransformersTeacher,
    Windowing,
    build,
    rescore,
)
from softtargets.capture.batches import plan_batches
from softtargets.capture.teachers.cpu_kernels import padded_length
from softtargets.report.page import report
from softtargets.report.target_statistics import measure as statistics_of
from softtargets.window import Window
from tests.benchmarks.formats import TRIPS, measure
from tests.fakes import write_corpus

TOPICS = ("assert", "del", "break", "global", "truth", "lambda")
TEMPERATURES = (1.0, 2.0)
BATCH_TOKENS = 1024
FLOAT32_NOISE = 1e-4
"""Nats by which float32 logits differ between batches; 4e-5 was seen."""


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def built(
    request: pytest.FixtureRequest, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, PreTrainedModel]:
    """A store of some hundred targets, and the model loaded anew by transformers alone."""
    dtype: Literal["float32", "bfloat16"] = request.param
    # bfloat16 takes several times as long on many CPUs.
    names = TOPICS[: 1 if dtype == "bfloat16" else 2]
    directory = tmp_path_factory.mktemp(dtype)
    path = directory / "topics.jsonl"
    path.write_text("".join(json.dumps({"text": topics[name]}) + "\n" for name in names))
    config = BuildConfig(
        corpus=Corpus(paths=(path,)),
        output=directory / "store",
        windowing=Windowing(sequence_length=192),
        selection=TopK(k=64),
        temperatures=TEMPERATURES,
        batch_tokens=BATCH_TOKENS,
    )
    name = str(smollm2)
    store = build(config, TransformersTeacher(TeacherConfig(name=name, dtype=dtype))).store
    model = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype)).eval()
    return store, model


@torch.inference_mode()
def live_logits(model: PreTrainedModel, windows: list[Window]) -> list[torch.Tensor]:
    """Return the model's own logits [T, V] for windows that are padded as a build pads them."""
    length = padded_length(max(map(len, windows)), model, model.device)
    ids_BL = torch.zeros((len(windows), length), dtype=torch.long)
    for row, window in enumerate(windows):
        ids_BL[row, : len(window)] = torch.from_numpy(window.input_ids_L.astype(np.int64))
    logits_BLV = model(input_ids=ids_BL).logits.float()
    return [logits_BLV[row, : len(window) - 1] for row, window in enumerate(windows)]


@pytest.mark.slow
def test_stored_targets_are_those_of_the_live_teacher(
    built: tuple[Store, PreTrainedModel],
) -> None:
    """Distances within 1/32 nat, log-probabilities within 1/20 nat, tail mass within 1e-3.

    The live teacher runs the batches that the build ran. In bfloat16 other batches give logits
    that differ by up to half a nat: that is the teacher's noise and not the store's. In float32
    every window is also run by itself, which must be the same within `FLOAT32_NOISE`.
    """
    store, model = built
    assert verify(store.root).is_sound
    assert store.num_positions > 250
    windows = list(store)
    for batch in plan_batches([len(window) for window in windows], BATCH_TOKENS):
        members = [windows[place] for place in batch]
        for window, live_TV in zip(members, live_logits(model, members), strict=True):
            if store.manifest.identity["teacher"]["dtype"] == "float32":
                assert_within(live_logits(model, [window])[0], live_TV, 0)
            targets = window.targets
            ids_TK = torch.from_numpy(targets.ids_TK).long()
            live_TK = live_TV.gather(1, ids_TK)
            stored_TK = torch.from_numpy(targets.logits_TK)
            assert_within(live_TK[:, :1] - live_TK, stored_TK[:, :1] - stored_TK, 1 / 32)
            left_out_T = live_TV.scatter(1, ids_TK, -torch.inf).max(dim=1).values
            assert (left_out_T <= live_TK[:, -1] + FLOAT32_NOISE).all()
            for temperature in TEMPERATURES:
                logprobs_TV = (live_TV / temperature).log_softmax(dim=1)
                stored_logprobs_TK = torch.from_numpy(targets.logprobs_TK(temperature))
                assert_within(logprobs_TV.gather(1, ids_TK), stored_logprobs_TK, 1 / 20)
                tail_T = logprobs_TV.exp().scatter(1, ids_TK, 0).sum(dim=1)
                stored_tail_T = torch.from_numpy(targets.tail_logmass_T(temperature)).exp()
                assert_within(tail_T, stored_tail_T, 1e-3)


@pytest.mark.slow
def test_the_layouts_of_other_tools_lose_what_they_are_said_to_lose(
    built: tuple[Store, PreTrainedModel], tmp_path: Path
) -> None:
    """The table of docs/formats.md, as bounds."""
    store, _ = built
    for name in TRIPS:
        trip = measure(store, name, tmp_path)
        assert (trip.num_changed, trip.num_top) == (0, 0), name
        assert trip.largest <= {"plain": 0.0, "DistillKit, float16": 5e-3}.get(name, 4e-6), name
        if name == "axolotl, renormalised":
            assert trip.largest_tail is None
        else:
            assert trip.largest_tail is not None
            bound = {"plain": 0.0, "DistillKit, float16": 3e-3}.get(name, 1e-6)
            assert trip.largest_tail <= bound, name


def assert_within(live: torch.Tensor, stored: torch.Tensor, bound: float) -> None:
    assert (stored - live).abs().max().item() <= bound + FLOAT32_NOISE


@pytest.mark.slow
def test_a_student_that_is_the_teacher_has_nothing_to_learn(
    built: tuple[Store, PreTrainedModel],
) -> None:
    store, model = built
    batch = next(iter(DataLoader(SoftTargetDataset(store), batch_size=4, collate_fn=collate)))
    with torch.inference_mode():
        logits = model(**student_inputs(batch)).logits
    for temperature in TEMPERATURES:
        loss = distillation_loss(logits, batch, temperature=temperature).item()
        assert 0 <= loss < 2e-3
        # The negative controls: targets shifted by a token, either way.
        for shift in (1, -1):
            assert distillation_loss(logits.roll(shift, dims=1), batch, temperature).item() > 1


@pytest.fixture(scope="module")
def teacher(smollm2: Path) -> TransformersTeacher:
    return TransformersTeacher(TeacherConfig(name=str(smollm2), dtype="float32"))


@pytest.mark.slow
def test_packing_changes_no_logit_beyond_noise(
    teacher: TransformersTeacher, tmp_path: Path
) -> None:
    """Documents that share windows against the same documents alone, and against being seen."""
    texts = [topics[name][:400] for name in TOPICS]
    path = write_corpus(tmp_path / "topics.jsonl", texts)
    stores = {}
    kinds: tuple[Literal["split", "pack"], ...] = ("split", "pack")
    for kind in kinds:
        config = BuildConfig(
            corpus=Corpus(paths=(path,)),
            output=tmp_path / kind,
            windowing=Windowing(sequence_length=400, kind=kind),
            values="float32",
            batch_tokens=BATCH_TOKENS,
        )
        stores[kind] = build(config, teacher).store
    alone = {window.document_ids[0]: window.targets for window in stores["split"]}
    num_shared = 0
    for window in stores["pack"]:
        ends = np.cumsum(window.segment_lengths_S)
        seen_TV = live_logits(teacher._model, [window])[0].numpy()
        for start, stop, name in zip([0, *ends[:-1]], ends, window.document_ids, strict=True):
            own, expected = slice(start, stop - 1), alone[name]
            found = window.targets
            np.testing.assert_allclose(
                found.logits_TK[own], expected.logits_TK, atol=FLOAT32_NOISE, rtol=0
            )
            np.testing.assert_allclose(
                found.tail_mass_TG[own], expected.tail_mass_TG, atol=FLOAT32_NOISE, rtol=0
            )
            if start > 0:
                num_shared += 1
                top_T = np.take_along_axis(seen_TV[own], found.ids_TK[own, :1].astype(int), 1)[:, 0]
                assert np.abs(top_T - found.logits_TK[own, 0]).max() > 1
    assert num_shared >= 4


@pytest.mark.slow
def test_of_a_conversation_the_assistants_tokens_are_targets(
    teacher: TransformersTeacher, tmp_path: Path
) -> None:
    """SmolLM2's own chat template; the store agrees with the live teacher."""
    talk = [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "2 + 2 is 4."},
        {"role": "user", "content": "And 3 + 3?"},
        {"role": "assistant", "content": "3 + 3 is 6."},
    ]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": talk}) + "\n" + json.dumps({"messages": talk[:2]}))
    config = BuildConfig(
        corpus=Corpus(paths=(path,), messages_field="messages"),
        output=tmp_path / "store",
        windowing=Windowing(sequence_length=256, kind="pack"),
    )
    store = build(config, teacher).store
    assert verify(store.root).is_sound
    [window] = store
    positions_T = window.positions_T
    assert positions_T is not None
    assert window.document_ids == ("0", "1")
    tokenizer = AutoTokenizer.from_pretrained(teacher.config.name)
    four, six = "2 + 2 is 4.<|im_end|>", "3 + 3 is 6.<|im_end|>"
    assert tokenizer.decode(window.input_ids_L[positions_T + 1]) == four + six + four
    # The first conversation stands at the window's beginning, as if it were alone.
    first_T = positions_T[positions_T < window.segment_lengths_S[0]].astype(np.int64)
    top_T = live_logits(teacher._model, [window])[0][first_T].argmax(dim=1).numpy()
    assert np.array_equal(window.targets.ids_TK[: len(first_T), 0], top_T)
    assert rescore(store.root, teacher, 1).holds
    logits = torch.randn(1, len(window), store.targets.vocab_size)
    batch = collate([window])
    assert torch.isfinite(distillation_loss(logits, batch))
    assert batch.soft_targets().mask.sum() == len(positions_T)


@pytest.mark.slow
@torch.no_grad()
def test_the_report_knows_the_models_loss(built: tuple[Store, PreTrainedModel]) -> None:
    store, model = built
    expected = 0.0
    for window in store:
        ids_L = torch.tensor(window.input_ids_L, dtype=torch.int64)
        logprobs_TV = model(ids_L[None]).logits[0, :-1].float().log_softmax(dim=-1)
        label_T = logprobs_TV.gather(1, ids_L[1:, None])[:, 0]
        expected += float(label_T[torch.tensor(window.mask_T)].sum())
    found = statistics_of(store, len(store)).total
    # The label's logit is exact; what it is divided by is of logits within half a step.
    assert abs(found.label_logprob_G[0] - expected) / found.num_trained < 1 / 32
    assert found.num_trained == sum(int(window.mask_T.sum()) for window in store)
    page = report(store)
    assert "SmolLM2" in page
    assert len(page) < 600_000
