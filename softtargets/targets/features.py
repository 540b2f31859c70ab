"""Features: hidden states in plain numbers, or in int8 or float8 with a scale for each vector."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from softtargets.errors import InputError
from softtargets.targets.arrays import Array, Cells, Columns, Float32, Offsets
from softtargets.targets.number_formats import (
    LARGEST_FLOAT8,
    STORED_AS,
    are_finite,
    pack_bfloat16,
    pack_float8,
    unpack_numbers,
)
from softtargets.targets.part import (
    FINITE,
    LARGEST_FLOAT,
    Column,
    Fault,
    Part,
    Range,
    Rows,
    outside,
)
from softtargets.targets.promises import Promise, Promises
from softtargets.targets.soft_targets import SoftTargets

LAST_HIDDEN = "last_hidden"
"""Name of the feature that an output head turns into logits."""
_LAYER = re.compile(r"layer_(0|[1-9][0-9]{0,4})")
_LARGEST_INT8 = 127
_LARGEST = {"int8": _LARGEST_INT8, "float8": LARGEST_FLOAT8}
"""What the largest number of a vector becomes, by the formats that have a scale."""
_NUMBER_BYTES = 5
"""Of a number of a hidden state, while `verify` checks it: measured."""
_SCALES = {
    name: Range(0, LARGEST_FLOAT / (most + 1), "a finite scale that is not negative")
    for name, most in _LARGEST.items()
}
"""What it is multiplied by is at most so large, and is finite then, too."""
_ROUNDING = {
    "int8": "rounded to 1/127 of each vector's largest value",
    "float8": "rounded to 4 significant bits, with a scale for each vector",
    "float16": "rounded to float16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSchema:
    """Hidden states of one layer."""

    name: str
    """Which layer, part of the column's name: layer_12 is the input of layer 12, counted from 0."""
    width: int
    rows: Literal["tokens", "targets", "window"]
    """One vector for each input token, for each target, or for the whole window."""
    dtype: Literal["float16", "int8", "float8", "bfloat16", "float32"]
    """With int8 every vector has a scale: its largest absolute value / 127; with float8, / 448."""

    @property
    def layer(self) -> int | None:
        """Return the layer whose input it is, by its name; None of other features."""
        found = _LAYER.fullmatch(self.name)
        return None if found is None else int(found[1])

    @property
    def vector_bytes(self) -> int:
        """Return the size of one vector, without its scale."""
        return self.width * np.dtype(STORED_AS[self.dtype]).itemsize

    @property
    def column(self) -> str:
        """Return the name of the column of its vectors."""
        return f"feature_{self.name}"

    @property
    def scale_column(self) -> str | None:
        """Return the name of the column of its vectors' scales, if they have any."""
        return f"{self.column}_scale" if self.dtype in _LARGEST else None

    def columns(self) -> Iterator[Column]:
        """Yield the columns of its vectors and, for int8 and float8, their scales."""
        rows: Rows = "single" if self.rows == "window" else self.rows
        yield Column(
            self.column,
            self.dtype,
            rows,
            "hidden states, one vector in each element",
            width=self.width,
            working_bytes=self.width * _NUMBER_BYTES,
        )
        if self.scale_column is not None:
            words = "what each of these vectors is multiplied with"
            yield Column(self.scale_column, "float32", rows, words, within=_SCALES[self.dtype])


@dataclass(frozen=True, slots=True)
class Features(Part):
    """The features of targets."""

    schemas: tuple[FeatureSchema, ...]

    def columns(self) -> Sequence[Column]:
        """Return the columns of every feature."""
        return [column for one in self.schemas for column in one.columns()]

    def describe(self) -> str:
        """Return the name, the width and the number format of each."""
        return ", ".join(f"{one.name} [{one.width}] {one.dtype}" for one in self.schemas)

    def exactness(self, imported: Mapping[str, Any] | None) -> Iterator[str]:
        """Yield what is rounded."""
        for one in self.schemas:
            rounding = _ROUNDING.get(one.dtype, f"exact in {one.dtype}")
            yield f"Hidden states `{one.name}` are {rounding}."

    @property
    def holds(self) -> Sequence[str]:
        """Return what `SoftTargets.parts` calls the features."""
        return [f"feature {one.name}" for one in self.schemas]

    def fits(self) -> Promises:
        """Yield that no column is there twice."""
        names = [column.name for column in self.columns()]
        yield Promise("features whose columns differ", len(set(names)) == len(names))

    def pack(self, targets: SoftTargets) -> dict[str, Array]:
        """Return the vectors in compact form, see `pack_feature`.

        Raises:
            InputError: as `pack_feature` does.
        """
        cells: dict[str, Array] = {}
        for one in self.schemas:
            cells |= pack_feature(targets.features[one.name], one)
        return cells

    def unpack(self, cells: Cells) -> dict[str, Any]:
        """Return the vectors [R, D] of every feature."""
        return {"features": {one.name: unpack_feature(cells, one) for one in self.schemas}}

    def faults(self, columns: Columns, offsets: Offsets) -> Iterator[Fault]:
        """Find vectors that are not finite."""
        for one in self.schemas:
            values_RD = columns[one.column]
            if one.dtype != "int8" and not are_finite(values_RD, one.dtype):
                is_finite_R = np.isfinite(unpack_numbers(values_RD)).all(axis=1)
                yield from outside(values_RD, is_finite_R, offsets, one.column, FINITE.words)

    def promises(self, cells: Cells, targets: SoftTargets) -> Promises:
        """Yield that int8 values are those of their scale."""
        most = _LARGEST_INT8
        for one in self.schemas:
            if one.dtype == "int8":
                is_sound = bool((cells[one.column] >= -most).all())
                words = f"values from -{most} to {most} in feature {one.name}"
                yield Promise(words, np.full(len(targets), is_sound))


def unpack_feature(cells: Cells, schema: FeatureSchema) -> Float32:
    """Return the vectors [R, D] of a feature."""
    values_RD = unpack_numbers(cells[schema.column])
    if schema.scale_column is None:
        return values_RD
    return np.asarray(values_RD * cells[schema.scale_column][:, None])


def pack_feature(values_RD: Float32, schema: FeatureSchema) -> dict[str, Array]:
    """Return vectors [R, D] in compact form, by column.

    An int8 value is off by at most half its vector's scale, which is the largest absolute value
    of the vector / 127; a float8 one by 1/16 of itself, or 1/1024 of the scale, which is / 448; a
    float16 one by the rounding of float16; others are exact. Where a scale would be below
    float32's smallest normal number (values below 5.3e-36), the vector is stored as zeros.

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
    if schema.scale_column is None:
        is_bfloat16 = schema.dtype == "bfloat16"
        values = pack_bfloat16(values_RD, where) if is_bfloat16 else values_RD.astype(schema.dtype)
        return {schema.column: values}
    return _scaled(values_RD, largest_R, schema)


def _scaled(values_RD: Float32, largest_R: Float32, schema: FeatureSchema) -> dict[str, Array]:
    """Return vectors in small numbers with a scale for each, by column."""
    scale_R = (largest_R / _LARGEST[schema.dtype]).astype(np.float32)
    # Below the smallest normal number a scale is too coarse to divide by; such vectors are zero.
    scale_R[scale_R < np.finfo(np.float32).tiny] = 0
    scaled_RD = values_RD / np.where(scale_R > 0, scale_R, np.inf)[:, None]
    is_float8 = schema.dtype == "float8"
    rounded_RD = pack_float8(scaled_RD) if is_float8 else np.rint(scaled_RD).astype(np.int8)
    return {schema.column: rounded_RD, f"{schema.column}_scale": scale_R}
