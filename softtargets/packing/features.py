"""Hidden-state features in their compact form: plain numbers, or int8 with a scale for each vector.

numpy has no bfloat16: such a number is kept as the upper half of a float32, which it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from softtargets.errors import InputError
from softtargets.kinds import FeatureSchema
from softtargets.targets import Float16, Float32, Int8, UInt16

LARGEST_INT8 = 127
_INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F80_0000}
"""The bits of infinity; those of larger numbers, without their sign, are NaN."""
_BLOCK_BYTES = 1 << 18
"""Of numbers that are looked at twice: they stay in a processor's cache."""
STORED_AS = {"float16": "<f2", "int8": "<i1", "bfloat16": "<u2", "float32": "<f4"}
"""How numpy reads the stored form of each number format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedFeature:
    """R vectors of width D as they are stored."""

    values_RD: Float16 | Float32 | Int8 | UInt16
    """UInt16 are the upper halves of float32 numbers: bfloat16."""
    scale_R: Float32 | None
    """What int8 values are multiplied with; None for all others."""

    def unpack(self) -> Float32:
        """Return the vectors [R, D]."""
        values_RD = unpack_numbers(self.values_RD)
        return values_RD if self.scale_R is None else values_RD * self.scale_R[:, None]


def are_finite(values: npt.NDArray[Any], dtype: str) -> bool:
    """Return whether stored numbers [R, ...] are finite, without making others of them.

    As signed integers positive infinity and NaN are above all numbers; as unsigned ones the
    negative of them are.
    """
    infinity = _INFINITY[dtype]
    size = np.dtype(STORED_AS[dtype]).itemsize
    signed, unsigned, negative = f"<i{size}", f"<u{size}", infinity | 1 << 8 * size - 1
    num_rows = max(1, _BLOCK_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), num_rows):
        block = values[start : start + num_rows]
        is_above = block.view(signed).max(initial=0) >= infinity
        if is_above or block.view(unsigned).max(initial=0) >= negative:
            return False
    return True


def unpack_numbers(values: Float16 | Float32 | Int8 | UInt16) -> Float32:
    """Return numbers of any stored form, exactly."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def pack_bfloat16(values: Float32, where: str) -> UInt16:
    """Return the upper halves of float32 numbers.

    Raises:
        InputError: the lower half of one is not zero, so that it is no bfloat16.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    is_wider = (bits & 0xFFFF) != 0
    if is_wider.any():
        raise InputError(
            where,
            expected="numbers that bfloat16 holds exactly",
            found=f"{values.flat[is_wider.argmax()]:.9g}",
            next_step="Pass what a model in bfloat16 gave, or store it as float32.",
        )
    return (bits >> 16).astype(np.uint16)


def pack_feature(values_RD: Float32, schema: FeatureSchema) -> PackedFeature:
    """Return vectors in compact form.

    An int8 value is off by at most half its vector's scale, which is the largest absolute value
    of the vector / 127; a float16 one by the rounding of float16; others are exact. Where that
    scale would be below float32's smallest normal number (values below 1.5e-36), the vector is
    stored as zeros.

    Raises:
        InputError: the vectors are of another width, not finite, too large for float16, or no
            bfloat16 numbers.
    """
    where = f"feature {schema.name}"
    if values_RD.ndim != 2 or values_RD.shape[1] != schema.width:
        raise InputError(
            where,
            expected=f"vectors of width {schema.width}",
            found=f"an array of shape {list(values_RD.shape)}",
            next_step="Pass the hidden states [rows, width] of the layer the schema names.",
        )
    largest_R = np.abs(values_RD).max(axis=1)
    limit = np.finfo(np.float16).max if schema.dtype == "float16" else np.finfo(np.float32).max
    if not (largest_R <= limit).all():
        raise InputError(
            where,
            expected=f"finite values of at most {limit:.6g} in {schema.dtype}",
            found=f"{values_RD.flat[np.abs(values_RD).argmax()]:.6g}",
            next_step="Store the feature as int8, which has a scale for each vector; where it is "
            "no number, the model's weights are damaged.",
        )
    if schema.dtype == "bfloat16":
        return PackedFeature(values_RD=pack_bfloat16(values_RD, where), scale_R=None)
    if schema.dtype != "int8":
        return PackedFeature(values_RD=values_RD.astype(schema.dtype), scale_R=None)
    scale_R = (largest_R / LARGEST_INT8).astype(np.float32)
    # Below the smallest normal number a scale is too coarse to divide by; such vectors are zero.
    scale_R[scale_R < np.finfo(np.float32).tiny] = 0
    divisor_R1 = np.where(scale_R > 0, scale_R, np.inf)[:, None]
    return PackedFeature(values_RD=np.rint(values_RD / divisor_R1).astype(np.int8), scale_R=scale_R)
