"""The file with the teacher's layers: safetensors that others read, and nothing else is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from softtargets import verify
from softtargets.errors import CorruptionError, InputError
from softtargets.store import Store
from softtargets.store.layer_file import decode_layers, describe_layers, encode_layers
from softtargets.store.stored_layers import read_layers
from tests.forgery import with_tensors
from tests.golden import make_store
from tests.windows import make_layers

LAYERS = make_layers()
SCHEMA, CONTENT = describe_layers(LAYERS), encode_layers(LAYERS)


def test_safetensors_reads_it_bit_for_bit() -> None:
    found = load(CONTENT)
    assert found.keys() == LAYERS.tensors.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.bfloat16
        stored = tensor.view(torch.int16).numpy().view(np.uint16)
        np.testing.assert_array_equal(stored, LAYERS.tensors[name])


def test_it_comes_back_as_it_was() -> None:
    found = decode_layers(CONTENT, SCHEMA, "here")
    assert replace(found, tensors={}) == replace(LAYERS, tensors={})
    for name, stored in LAYERS.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], stored)


def with_header(change: Callable[[dict[str, Any]], None]) -> bytes:
    return with_tensors(CONTENT, change)


def changed(name: str, **fields: Any) -> bytes:
    return with_header(lambda header: header[name].update(fields))


BAD = {
    "empty": b"",
    "a header beyond the end": (1 << 62).to_bytes(8, "little") + CONTENT[8:],
    "no JSON": (4).to_bytes(8, "little") + b"nope" + CONTENT,
    "cut": CONTENT[:-2],
    "more": CONTENT + b"\0\0",
    "a bit": CONTENT[:-2] + bytes([CONTENT[-2] ^ 1]) + CONTENT[-1:],
    "another format": changed("1.dense.bias", dtype="F32"),
    "another shape": changed("1.dense.bias", shape=[3, 2]),
    "a shape below zero": changed("1.dense.bias", shape=[-6]),
    "a huge shape": changed("1.dense.bias", shape=[1 << 62, 1 << 62]),
    "more axes than numpy has": changed("1.dense.bias", shape=[6] + 70 * [1]),
    "a truth value for a length": changed("1.dense.bias", shape=[6, True]),
    "an overlap": changed("1.dense.weight", data_offsets=[0, 72]),
    "no offsets": changed("1.dense.weight", data_offsets=None),
    "a tensor that is a text": with_header(lambda header: header.update({"1.more": "x"})),
    "no configuration": with_header(lambda header: header.pop("__metadata__")),
    "another configuration": changed("__metadata__", config='{"eps":1}'),
    "a configuration that is none": changed("__metadata__", config="[]"),
    "a configuration that is no text": changed("__metadata__", config=[]),
    "a number that no float64 holds": changed("__metadata__", config=f'{{"a": {1 << 60}}}'),
    "a configuration without a bottom": changed("__metadata__", config='{"a":' * 999 + "1"),
    "metadata that is a text": with_header(lambda header: header.update(__metadata__="x")),
    "another name": with_header(lambda header: header.update({"2.x": header.pop("1.dense.bias")})),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_what_is_not_the_layers_is_damage(name: str) -> None:
    with pytest.raises(CorruptionError, match="here: expected"):
        decode_layers(BAD[name], SCHEMA, "here")


@pytest.mark.slow
def test_a_shape_whose_product_takes_minutes_is_damage() -> None:
    with pytest.raises(CorruptionError, match="here: expected"):
        decode_layers(changed("1.dense.bias", shape=1000 * [10**4000]), SCHEMA, "here")


@pytest.mark.slow
@pytest.mark.parametrize("mask", [1 << bit for bit in range(8)])
def test_a_byte_that_is_flipped_is_damage_or_changes_nothing(mask: int) -> None:
    """A byte of the header may say the same in other words, such as 1E-12 for 1e-12."""
    unharmed = []
    for place, byte in enumerate(CONTENT):
        flipped = CONTENT[:place] + bytes([byte ^ mask]) + CONTENT[place + 1 :]
        try:
            found = decode_layers(flipped, SCHEMA, "here")
        except CorruptionError:
            continue
        unharmed.append(chr(byte))
        assert found.config == LAYERS.config
        assert encode_layers(found) == CONTENT
    assert unharmed in ([], ["e"])


def test_a_file_that_is_cut_anywhere_is_damage() -> None:
    for length in range(len(CONTENT)):
        with pytest.raises(CorruptionError, match="here: expected"):
            decode_layers(CONTENT[:length], SCHEMA, "here")


@pytest.mark.slow
def test_numbers_that_are_none_are_damage() -> None:
    tensors = {**LAYERS.tensors, "1.dense.bias": np.full(6, 0x7F80, np.uint16)}
    wrong = replace(LAYERS, tensors=tensors)
    with pytest.raises(CorruptionError, match=r"1\.dense\.bias: expected finite numbers"):
        decode_layers(encode_layers(wrong), describe_layers(wrong), "here")


def test_a_store_checks_its_layers(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", "layers-to-run-again")
    assert verify(store.root).is_sound
    assert read_layers(store).numbers == (1,)
    path = store.root / "layers.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert "layers.safetensors" in str(verify(store.root).problems[0])
    path.unlink()
    assert not verify(store.root, fast=True).is_sound
    other = make_store(tmp_path / "other", "topk")
    with pytest.raises(InputError, match=r"expected a store with weights .* --rerun-layers"):
        read_layers(Store.open(other.root))
