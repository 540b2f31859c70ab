"""The inputs of named layers: the model's own, at tokens or targets, in every number format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from softtargets import Batch, SoftTargetDataset, student_inputs, verify
from softtargets.capture import TopK, Windowing, build, rescore
from softtargets.errors import InputError, StoreError
from softtargets.layers.recorder import LayerRecords
from softtargets.store import Store
from tests.fakes import build_config
from tests.layers.conftest import Saved
from tests.layers.models import NUM_LAYERS, build_layers, make_teacher

ALL = tuple(range(NUM_LAYERS + 1))
NEAR = 2e-5
"""How far float32 states of several units may be off when sums are made in another order."""


def whole_batch(store: Store) -> Batch:
    batch: Batch = next(iter(SoftTargetDataset(store, batch_size=len(store))))
    return batch


def own_states(model: Path, batch: Batch) -> tuple[torch.Tensor, ...]:
    """Return the hidden states that transformers itself returns."""
    body = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    with torch.inference_mode():
        found: tuple[torch.Tensor, ...] = body(
            **student_inputs(batch), output_hidden_states=True
        ).hidden_states
    return found


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["tokens", "targets"])
@pytest.mark.parametrize("kind", ["bert", "llama", "mistral", "classes"])
def test_each_number_is_the_input_of_that_layer(
    tmp_path: Path, saved: Saved, kind: str, rows: Any
) -> None:
    store = build_layers(tmp_path, saved(kind), kind, layers=ALL, layer_rows=rows)
    assert verify(store.root).is_sound
    assert [one.name for one in store.targets.features] == [f"layer_{one}" for one in ALL]
    assert store.manifest.format_version == ("1.4" if kind == "classes" else "1.3")
    report = rescore(store, make_teacher(saved(kind), kind), 3)
    assert report.holds
    assert [one.name for one in report.features] == [f"layer_{one}" for one in ALL]
    batch = whole_batch(store)
    expected = own_states(saved(kind), batch)
    # Of decoders transformers returns the last one after a norm.
    for number in ALL if kind in ("bert", "classes") else ALL[:-1]:
        found, own = batch.states(f"layer_{number}"), expected[number]
        if kind == "classes" and rows == "targets":
            torch.testing.assert_close(found, own[:, 0], atol=NEAR, rtol=0)
            continue
        is_there = batch.has_states(f"layer_{number}")
        assert is_there.any() and not is_there.all()
        torch.testing.assert_close(found[is_there], own[is_there], atol=NEAR, rtol=0)
        assert (found[~is_there] == 0).all()


@pytest.mark.slow
def test_the_last_one_is_what_the_last_layer_puts_out(tmp_path: Path, saved: Saved) -> None:
    """Before the norm that follows it: with this, it is the last hidden state."""
    store = build_layers(tmp_path, saved("llama"), "llama", layers=(NUM_LAYERS,))
    batch = whole_batch(store)
    body = AutoModel.from_pretrained(saved("llama"), dtype=torch.float32).eval()
    is_token = batch.token_mask()
    normed = body.norm(batch.states(f"layer_{NUM_LAYERS}"))[is_token]
    expected = own_states(saved("llama"), batch)[-1][is_token]
    torch.testing.assert_close(normed, expected, atol=NEAR, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "most"),
    [("bfloat16", 2**-8), ("float16", 2**-11), ("int8", 1 / 127), ("float8", 2**-4)],
)
@pytest.mark.parametrize("kind", ["bert", "classes"])
def test_other_formats_are_off_by_what_they_say(
    tmp_path: Path, saved: Saved, kind: str, values: Any, most: float
) -> None:
    exact = build_layers(tmp_path / "exact", saved(kind), kind, layers=(0, 2))
    store = build_layers(tmp_path / "own", saved(kind), kind, layers=(0, 2), layer_values=values)
    assert verify(store.root).is_sound
    assert store.num_bytes < 0.75 * exact.num_bytes
    assert exact.manifest.rounding == {}
    assert set(store.manifest.rounding) == {"layer_0", "layer_2"}
    batch, other = whole_batch(store), whole_batch(exact)
    for name, error in store.manifest.rounding.items():
        found, expected = batch.states(name), other.states(name)
        apart = (found.float() - expected).abs()
        largest = expected.abs().amax(dim=-1, keepdim=True)
        # int8 and what is tiny in float8 are rounded by the largest number of a token.
        bound = most * torch.maximum(
            expected.abs(), largest / 2 if values == "int8" else largest / 7
        )
        assert (apart <= bound * 1.001).all()
        assert error["largest"] == pytest.approx(float(apart.max()), rel=1e-5)
        relative = float(apart.square().sum() / expected.square().sum()) ** 0.5
        assert error["relative"] == pytest.approx(relative, rel=1e-4)
        assert 0 < relative < most
    assert (store.manifest.format_version == "1.5") == (values == "float8")
    report = rescore(store, make_teacher(saved(kind), kind), len(store))
    assert report.holds
    for one in report.features:
        assert one.stored == pytest.approx(store.manifest.rounding[one.name]["relative"], rel=1e-2)
        assert one.live < 1e-5 < one.stored <= one.bound < 4 * one.stored


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "classes"])
def test_states_of_another_layer_or_window_do_not_hold(
    tmp_path: Path, saved: Saved, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = build_layers(tmp_path, saved(kind), kind, layers=(1,), layer_values="float8")
    monkeypatch.setattr(LayerRecords, "states", property(lambda one: tuple(one.inputs[1:])))
    report = rescore(store, make_teacher(saved(kind), kind), 3)
    assert all(one.holds for one in report.temperatures)
    assert not report.features[0].holds
    assert not report.holds


@pytest.mark.slow
def test_a_crash_in_between_changes_neither_bytes_nor_errors(tmp_path: Path, saved: Saved) -> None:
    options: dict[str, Any] = {"layers": (1,), "layer_values": "int8", "unit_tokens": 100}
    once, again = (
        build_layers(tmp_path / name, saved("bert"), "bert", **options) for name in ("a", "b")
    )
    assert once.manifest.to_json() == again.manifest.to_json()
    assert all("rounding" not in shard.run for shard in once.manifest.shards)


@pytest.mark.slow
def test_a_classifier_keeps_its_last_hidden_states_too(tmp_path: Path, saved: Saved) -> None:
    store = build_layers(
        tmp_path, saved("classes"), "classes", hidden_states=True, layers=(1,), layer_values="int8"
    )
    assert [one.name for one in store.targets.features] == ["last_hidden", "layer_1"]
    assert store.targets.output_head is None
    batch = whole_batch(store)
    expected = own_states(saved("classes"), batch)[-1]
    is_token = batch.token_mask()
    most = expected[is_token].abs().max() / 127
    assert (batch.states()[is_token] - expected[is_token]).abs().max() < most


def test_documents_of_a_packed_window_are_read_by_themselves(tmp_path: Path, saved: Saved) -> None:
    windowing = Windowing(sequence_length=64, kind="pack")
    store = build_layers(tmp_path, saved("llama"), "llama", layers=(3,), windowing=windowing)
    batch = whole_batch(store)
    assert batch["num_segments"] > 1
    expected, is_token = own_states(saved("llama"), batch)[3], batch.token_mask()
    found = batch.states("layer_3")
    torch.testing.assert_close(found[is_token], expected[is_token], atol=NEAR, rtol=1e-5)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"layers": (NUM_LAYERS + 1,)}, r"--hidden-states: expected rising numbers from 0 to 4"),
    ({"layers": (-1,)}, r"--hidden-states: expected rising numbers"),
    ({"rerun_layers": (NUM_LAYERS,)}, r"--rerun-layers: expected rising numbers from 0 to 3"),
    ({"rerun_layers": (1,), "layer_rows": "targets"}, r"--layer-rows: expected tokens"),
    ({"layer_values": "int8"}, r"--layer-rows, --layer-values: expected layers .* found none"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_what_cannot_be_kept_is_refused(
    tmp_path: Path, saved: Saved, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_layers(tmp_path, saved("bert"), "bert", **options)
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_what_float16_cannot_hold_is_refused_and_named(tmp_path: Path, saved: Saved) -> None:
    teacher = make_teacher(saved("llama"), "llama")
    teacher.load()
    embeddings = teacher._model.get_input_embeddings()  # type: ignore[attr-defined]
    with torch.no_grad():
        embeddings.weight[teacher.tokenizer.encode_batch(["a"])[0][0]] *= 1e6
    config = build_config(
        tmp_path, selection=TopK(k=4), layers=(0,), layer_values="float16", unit_tokens=64
    )
    with pytest.raises(StoreError, match=r"feature layer_0 of document .*at most 65504 in float16"):
        build(config, teacher)
