"""Layers run again on their stored input: the teacher's own attention and output, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AutoModel,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    PreTrainedModel,
)

from softtargets import student_inputs, verify
from softtargets.capture import Windowing
from softtargets.errors import InputError, LimitError
from softtargets.layers.layer_body import LayerBody
from softtargets.layers.live_layers import take_layers
from softtargets.layers.rerun_layers import RerunLayers
from softtargets.store import Store, filter_store
from softtargets.store.stored_layers import read_layers
from tests.layers.conftest import Saved
from tests.layers.models import HEADS, KINDS, NUM_LAYERS, WIDTH, build_layers
from tests.layers.test_named_layers import whole_batch

RERUN = (1, 3)
NEAR = 5e-5
"""How far float32 sums of some units may be off, as a share of the largest."""


class Eager:
    """What a model's own modules compute, by their hooks and by eager attention of transformers."""

    def __init__(self, model: Path, store: Store, kind: str) -> None:
        body = AutoModel.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
        self.batch = whole_batch(store)
        self.projected: dict[str, torch.Tensor] = {}
        layers = body.encoder.layer if kind in ("bert", "classes") else body.layers
        for number, layer in enumerate(layers):
            attention = layer.attention.self if kind in ("bert", "classes") else layer.self_attn
            for name in ("value", "v_proj"):
                if hasattr(attention, name):
                    self._watch(getattr(attention, name), f"{number}.value")
            self._watch(layer, f"{number}.output")
        with torch.inference_mode():
            found = body.eval()(**student_inputs(self.batch), output_attentions=True)
        self.attentions = found.attentions

    def _watch(self, module: torch.nn.Module, name: str) -> None:
        def note(_: Any, __: Any, output: Any) -> None:
            self.projected[name] = output if isinstance(output, torch.Tensor) else output[0]

        module.register_forward_hook(note)


def assert_near(found: torch.Tensor, expected: torch.Tensor, most: float) -> None:
    """Check that two tensors differ by a share of the largest number at most."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= most * float(expected.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "classes"])
def test_a_layer_run_again_does_what_it_did_in_the_teacher(
    tmp_path: Path, saved: Saved, kind: str
) -> None:
    store = build_layers(tmp_path, saved(kind), kind, rerun_layers=RERUN)
    assert verify(store.root).is_sound
    assert store.manifest.format_version == "1.5"
    assert [one.name for one in store.targets.features] == ["layer_1", "layer_3"]
    live, rerun = Eager(saved(kind), store, kind), RerunLayers.of(store)
    assert (rerun.numbers, rerun.num_layers) == (RERUN, NUM_LAYERS)
    batch, is_token = live.batch, live.batch.token_mask()
    for number in RERUN:
        run = rerun.run(number, batch.states(f"layer_{number}"), student_inputs(batch))
        scores, is_seen = run.attention.scores(), run.attention.is_seen(is_token)
        assert scores.shape[1] == HEADS
        probabilities = scores.masked_fill(~is_seen, -torch.inf).softmax(-1)
        own = is_token[:, None, :, None].expand_as(probabilities)
        expected = live.attentions[number]
        assert_near(probabilities[own], expected[own], NEAR)
        # What no token sees has no probability in the teacher either.
        assert (expected[own & ~is_seen] == 0).all()
        value = run.attention.value_BKLH.transpose(1, 2).flatten(2)
        assert_near(value[is_token], live.projected[f"{number}.value"][is_token], NEAR)
        output = live.projected[f"{number}.output"]
        assert_near(run.output_BLD[is_token], output[is_token], NEAR)


def test_a_window_that_slides_is_seen_by_the_layer(tmp_path: Path, saved: Saved) -> None:
    store = build_layers(tmp_path, saved("mistral"), "mistral", rerun_layers=(2,))
    batch = whole_batch(store)
    run = RerunLayers.of(store).run(2, batch.states("layer_2"), student_inputs(batch))
    is_seen = run.attention.is_seen(batch.token_mask())[:, 0]
    place = torch.arange(is_seen.shape[1])
    apart = place[:, None] - place[None, :]
    is_token = batch.token_mask()
    expected = (apart >= 0) & (apart < 5) & is_token[:, None, :] & is_token[:, :, None]
    assert torch.equal(is_seen, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize(("values", "most"), [("int8", 1 / 100), ("float8", 1 / 14)])
def test_a_rounded_input_moves_them_by_no_more_than_its_rounding_does(
    tmp_path: Path, saved: Saved, kind: str, values: Any, most: float
) -> None:
    """The output of a layer of float32 is that of the rounded input, which is known exactly."""
    exact = build_layers(tmp_path / "exact", saved(kind), kind, rerun_layers=(1,))
    store = build_layers(
        tmp_path / "own", saved(kind), kind, rerun_layers=(1,), layer_values=values
    )
    assert (
        store.manifest.identity["targets"]["layers"] == exact.manifest.identity["targets"]["layers"]
    )
    batch, rerun = whole_batch(store), RerunLayers.of(exact)
    inputs, is_token = student_inputs(batch), whole_batch(store).token_mask()
    found = RerunLayers.of(store).run(1, batch.states("layer_1"), inputs)
    own = rerun.run(1, whole_batch(exact).states("layer_1"), inputs)
    scale = own.output_BLD[is_token].abs().max()
    apart = (found.output_BLD - own.output_BLD)[is_token].abs()
    assert 0 < float(apart.max()) < 8 * most * float(scale)
    assert float(apart.square().mean().sqrt()) < most * float(scale)


@pytest.mark.slow
def test_a_teacher_in_bfloat16_is_run_again_in_bfloat16(tmp_path: Path, saved: Saved) -> None:
    store = build_layers(
        tmp_path, saved("bert"), "bert", "bfloat16", rerun_layers=(1,), layers=(2,)
    )
    batch = whole_batch(store)
    run = RerunLayers.of(store).run(1, batch.states("layer_1"), student_inputs(batch))
    assert run.output_BLD.dtype == torch.bfloat16
    is_token = batch.token_mask()
    # The same kernels on other batches: a unit or two in the last of 8 bits.
    assert_near(run.output_BLD[is_token], batch.states("layer_2")[is_token], 2**-6)


def test_documents_that_share_a_row_do_not_see_each_other(tmp_path: Path, saved: Saved) -> None:
    windowing = Windowing(sequence_length=64, kind="pack")
    store = build_layers(
        tmp_path, saved("llama"), "llama", rerun_layers=(2,), layers=(3,), windowing=windowing
    )
    batch = whole_batch(store)
    assert batch["num_segments"] > 1
    run = RerunLayers.of(store).run(2, batch.states("layer_2"), student_inputs(batch))
    is_token, segments = batch.token_mask(), batch["segment_ids"]
    assert_near(run.output_BLD[is_token], batch.states("layer_3")[is_token], NEAR)
    is_seen = run.attention.is_seen(is_token)[:, 0]
    assert not is_seen[segments[:, :, None] != segments[:, None, :]].any()


@pytest.mark.slow
def test_the_layers_are_part_of_the_fingerprint_and_go_with_derived_stores(
    tmp_path: Path, saved: Saved
) -> None:
    one = build_layers(tmp_path / "a", saved("bert"), "bert", rerun_layers=(1,), layers=(1, 2))
    other = build_layers(tmp_path / "b", saved("bert"), "bert", rerun_layers=(2,), layers=(1, 2))
    assert one.fingerprint != other.fingerprint
    derived = filter_store(one.root, tmp_path / "c", sources=one.sources)
    assert RerunLayers.of(derived).numbers == (1,)
    # The configuration that is stored has no paths of this machine.
    assert str(tmp_path.parent.parent) not in str(read_layers(one).config)


def tiny(kind: str) -> PreTrainedModel:
    sizes: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
    }
    if kind == "albert":
        return AlbertForMaskedLM(AlbertConfig(**sizes, embedding_size=16))
    positions: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    return DebertaV2ForMaskedLM(DebertaV2Config(**sizes, **positions))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("albert", "expected a model with one list of layers"),
        ("deberta", "expected a model that runs each of its 2 layers once"),
    ],
)
def test_layers_that_cannot_be_run_by_themselves_are_refused(kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        take_layers(tiny(kind).eval(), (1,), "float32", "here")


def test_a_layer_that_needs_more_than_its_input_is_refused(saved: Saved) -> None:
    model = AutoModel.from_pretrained(saved("llama"), dtype=torch.float32).eval()
    own = model.layers[2].forward
    model.layers[2].forward = lambda hidden, **others: own(hidden + model.layers[0].more, **others)
    model.layers[0].more = 0.5
    take_layers(model, (1,), "float32", "here")
    with pytest.raises(InputError, match=r"here, layer 2: expected a layer .* found other queries"):
        take_layers(model, (2,), "float32", "here")


def test_a_configuration_of_another_layer_or_of_too_much_is_refused(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModel.from_pretrained(saved("bert"), dtype=torch.float32).eval()
    weights = take_layers(model, (1,), "float32", "here")
    wide = replace(weights, config={**weights.config, "intermediate_size": 47})
    with pytest.raises(InputError, match=r"expected .*\(47.* of the installed transformers"):
        LayerBody(wide, 1, "here")
    unknown = replace(weights, model_type="nobody")
    with pytest.raises(InputError, match="a layer of nobody that transformers makes"):
        LayerBody(unknown, 1, "here")
    large = replace(weights, config={**weights.config, "max_position_embeddings": 1 << 40})
    with pytest.raises(LimitError, match="parameters beside a layer"):
        LayerBody(large, 1, "here")
    other = replace(weights, config={**weights.config, "hidden_act": ["gelu"]})
    with pytest.raises(InputError, match="a layer of bert that transformers makes by itself"):
        LayerBody(other, 1, "here")
    for forged in (
        replace(weights, num_layers=1 << 40),
        replace(weights, config={**weights.config, "num_hidden_layers": 1 << 40}),
        replace(weights, config={**weights.config, "text_config": {"num_layers": 1 << 40}}),
    ):
        with pytest.raises(
            LimitError, match=r"layers of a teacher .*SOFTTARGETS_MAX_TEACHER_LAYERS"
        ):
            LayerBody(forged, 1, "here")


def test_what_a_configuration_says_beside_its_layers_means_nothing(saved: Saved) -> None:
    model = AutoModel.from_pretrained(saved("bert"), dtype=torch.float32).eval()
    weights = take_layers(model, (1,), "float32", "here")
    more = {
        "num_labels": 1 << 40,  # transformers would name each.
        "auto_map": {"AutoModel": "nobody/nothing--module.Model"},
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "_attn_implementation": "nobody/kernel",
    }
    forged = LayerBody(replace(weights, config={**weights.config, **more}), 1, "here")
    states, inputs = torch.randn(1, 5, WIDTH), {"attention_mask": torch.ones(1, 5)}
    expected = LayerBody(weights, 1, "here").run(states, inputs)
    assert torch.equal(forged.run(states, inputs).output_BLD, expected.output_BLD)
