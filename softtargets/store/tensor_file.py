"""Tensors in a file of the format safetensors, written and read with numpy.

Eight bytes have the length of a JSON header, which the tensors follow. The header has for each its
format, its shape, and where its bytes begin and end after the header.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from softtargets.errors import CorruptionError, FormatError
from softtargets.store.fingerprint import canonical_json
from softtargets.store.json_object import parse_object
from softtargets.targets import Array
from softtargets.targets.number_formats import STORED_AS, DType

_NAMES: dict[DType, str] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""Number formats as the header calls them."""
_METADATA = "__metadata__"
_ALIGNMENT = 8
"""Of the first tensor: spaces fill the header up."""
_MOST_DIMENSIONS = 8
"""Of a tensor; numpy has 64, and the product of many large numbers takes hours."""


def encode_tensors(
    tensors: Mapping[str, Array], dtype: DType, metadata: Mapping[str, str]
) -> bytes:
    """Return the file of tensors in one stored format; its bytes are a function of the arguments.

    Raises:
        InputError: the metadata cannot be written as JSON.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    at = 0
    for name in sorted(tensors):
        own = tensors[name]
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(own.shape),
            "data_offsets": [at, at + own.nbytes],
        }
        at += own.nbytes
    text = canonical_json(header)
    text += b" " * (-len(text) % _ALIGNMENT)
    content = b"".join(np.ascontiguousarray(tensors[name]).tobytes() for name in sorted(tensors))
    return len(text).to_bytes(8, "little") + text + content


def decode_tensors(
    content: bytes, dtype: DType, where: str
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the tensors of a file, in stored form, and its metadata.

    Raises:
        CorruptionError: the file is none, or has tensors of another format.
    """
    length = int.from_bytes(content[:8], "little")
    if not 0 < length <= len(content) - 8:
        raise _spoiled(where, f"a header of {length:,} bytes in {len(content):,}")
    try:
        header = parse_object(content[8 : 8 + length].rstrip(b" "), where)
    except FormatError as error:
        raise _spoiled(where, error.found) from error
    metadata = header.pop(_METADATA, {})
    stored = np.dtype(STORED_AS[dtype])
    tensors, at = {}, 0
    for name, own in sorted(header.items(), key=_start):
        shape: Any = own.get("shape") if isinstance(own, dict) else None
        if not _is_shape(shape, len(content)) or own.get("dtype") != _NAMES[dtype]:
            raise _spoiled(where, f"{name} described as {own}"[:200])
        num_bytes = math.prod(shape) * stored.itemsize
        if own.get("data_offsets") != [at, at + num_bytes]:
            raise _spoiled(where, f"{name} at {own.get('data_offsets')}, not at {at:,}"[:200])
        start, at = 8 + length + at, at + num_bytes
        if start + num_bytes > len(content):
            raise _spoiled(where, f"{name} beyond the end of the file")
        tensors[name] = np.frombuffer(content, stored, math.prod(shape), start).reshape(shape)
    if 8 + length + at != len(content) or not isinstance(metadata, dict):
        raise _spoiled(where, f"{len(content):,} bytes, of which {8 + length + at:,} are described")
    return tensors, metadata


def _start(item: tuple[str, Any]) -> int:
    """Return where the bytes of a tensor begin, or the end of everything if that is not said."""
    offsets = item[1].get("data_offsets") if isinstance(item[1], dict) else None
    is_said = isinstance(offsets, list) and len(offsets) == 2 and type(offsets[0]) is int
    return offsets[0] if is_said and offsets is not None else sys.maxsize


def _is_shape(value: Any, most: int) -> bool:
    """Return whether something is a shape whose every axis is at most so long."""
    if not isinstance(value, list) or len(value) > _MOST_DIMENSIONS:
        return False
    return all(type(one) is int and 0 < one <= most for one in value)


def _spoiled(where: str, found: str) -> CorruptionError:
    return CorruptionError(
        where, expected="a safetensors file whose tensors follow each other", found=found
    )
