"""Number formats that numpy lacks, or reads by their bits.

numpy has no bfloat16: such a number is kept as the upper half of a float32, which it is. Nor has it
float8: the one here has 4 bits of exponent, 3 of mantissa and no infinity (E4M3, Micikevicius et
al. 2022, FP8 Formats for Deep Learning).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from softtargets.errors import InputError
from softtargets.targets.arrays import Float16, Float32, Float64, Int8, UInt8, UInt16

DType = Literal["bfloat16", "float16", "float32"]
"""Number formats that teachers compute in."""

LARGEST_FLOAT8 = 448
"""The largest float8."""
_LEAST_EXPONENT = -6
"""Of a float8 of full precision; smaller ones are multiples of 2^-9."""
_INFINITY = {"float8": 0x7F, "float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F80_0000}
"""The bits of infinity; those of larger numbers, without their sign, are NaN."""
_BLOCK_BYTES = 1 << 18
"""Of numbers that are looked at twice: they stay in a processor's cache."""
STORED_AS = {
    "bool": "?",
    "int8": "<i1",
    "uint8": "<u1",
    "float8": "<u1",
    "int32": "<i4",
    "int64": "<i8",
    "float16": "<f2",
    "bfloat16": "<u2",
    "float32": "<f4",
}
"""How numpy reads the stored form of each number format."""


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


def unpack_numbers(values: Float16 | Float32 | Int8 | UInt8 | UInt16) -> Float32:
    """Return numbers of any stored form, exactly; bytes are float8."""
    if values.dtype == np.uint8:
        return np.asarray(FLOAT8[values], np.float32)
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


def pack_float8(values: Float32 | Float64) -> UInt8:
    """Return the nearest float8 of numbers of at most 448, ties to the even one."""
    magnitudes = np.abs(values)
    exponents = np.frexp(np.maximum(magnitudes, 2.0**_LEAST_EXPONENT))[1] - 1
    # Eighths of a power of two; 16 of them are the first of the next.
    eighths = np.rint(np.ldexp(magnitudes, 3 - exponents))
    codes = (exponents - _LEAST_EXPONENT) * 8 + eighths
    return np.asarray(codes.astype(np.uint8) | np.signbit(values) << 7, np.uint8)


def _float8_values() -> Float32:
    """Return the number of each of the 256 bytes."""
    codes = np.arange(256)
    exponents, eighths = codes >> 3 & 15, codes & 7
    is_full = exponents > 0
    magnitudes = np.ldexp(eighths + 8.0 * is_full, np.maximum(exponents, 1) - 10)
    magnitudes[codes & 127 == 127] = np.nan
    values: Float32 = np.where(codes > 127, -magnitudes, magnitudes).astype(np.float32)
    return values


FLOAT8 = _float8_values()
"""What each byte stands for as a float8."""
