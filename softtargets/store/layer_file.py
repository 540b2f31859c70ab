"""Layers of the teacher as a file of a store: what is run again on stored hidden states.

It is a file of safetensors, whose metadata has the teacher's configuration. The identity has a hash
of both, whatever wrote the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from softtargets.errors import CorruptionError, FormatError, InputError
from softtargets.places.place import Place
from softtargets.store.fingerprint import canonical_json
from softtargets.store.json_object import parse_object
from softtargets.store.side_file import SideFile, commit_side_file, written_side_file
from softtargets.store.tensor_file import decode_tensors, encode_tensors
from softtargets.targets import Array, LayersSchema, LayerWeights
from softtargets.targets.number_formats import are_finite

LAYERS_NAME = "layers.safetensors"
_CONFIG = "config"
"""The key of the metadata under which the configuration stands as JSON."""


def describe_layers(layers: LayerWeights) -> LayersSchema:
    """Return what the identity says about layers.

    Raises:
        InputError: the configuration cannot be written as JSON.
    """
    return LayersSchema(
        numbers=layers.numbers,
        num_layers=layers.num_layers,
        model_type=layers.model_type,
        dtype=layers.dtype,
        sha256=_content_hash(layers.config, layers.tensors),
    )


def encode_layers(layers: LayerWeights) -> bytes:
    """Return the file of layers; its bytes are a function of the argument.

    Raises:
        InputError: the configuration cannot be written as JSON.
    """
    metadata = {_CONFIG: canonical_json(layers.config).decode()}
    return encode_tensors(layers.tensors, layers.dtype, metadata)


def decode_layers(content: bytes, schema: LayersSchema, where: str) -> LayerWeights:
    """Return the layers of a file's content.

    Raises:
        CorruptionError: they are not those that the schema describes.
    """
    tensors, metadata = decode_tensors(content, schema.dtype, where)
    text = metadata.get(_CONFIG)
    try:
        config = parse_object(text if isinstance(text, str) else "", where)
        found = _content_hash(config, tensors)
    except (FormatError, InputError) as error:
        raise CorruptionError(
            where, expected="the teacher's configuration in the metadata", found=error.found
        ) from error
    if found != schema.sha256:
        raise CorruptionError(
            where, expected=f"weights and configuration with SHA-256 {schema.sha256}", found=found
        )
    for name, one in tensors.items():
        if not are_finite(np.atleast_1d(one), schema.dtype):
            raise CorruptionError(
                f"{where}, {name}", expected="finite numbers", found="NaN or infinity"
            )
    return LayerWeights(
        numbers=schema.numbers,
        num_layers=schema.num_layers,
        model_type=schema.model_type,
        config=config,
        dtype=schema.dtype,
        tensors=tensors,
    )


def commit_layers(place: Place, work: str, schema: LayersSchema) -> SideFile:
    """Put the file from `work` to its place in the store, and return its entry in the manifest.

    Raises:
        StoreError: there is none.
        CorruptionError: it is not the one that the schema describes.
    """
    path = f"{work}/{LAYERS_NAME}"
    content = written_side_file(place, path, "layers")
    decode_layers(content, schema, place.where(path))
    return commit_side_file(place, LAYERS_NAME, content)


def _content_hash(config: Mapping[str, Any], tensors: Mapping[str, Array]) -> str:
    """Return the hash of a configuration, and of each tensor's name, shape and bytes, by name."""
    digest = hashlib.sha256(canonical_json(config))
    for name in sorted(tensors):
        shape = ",".join(map(str, tensors[name].shape))
        digest.update(f"\n{name} {shape}\n".encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()
