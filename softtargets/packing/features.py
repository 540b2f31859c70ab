"""Hidden-state features in their compact form: float16, or int8 with a scale for each vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softtargets.errors import InputError
from softtargets.kinds import FeatureSchema
from softtargets.targets import Float16, Float32, Int8

LARGEST_INT8 = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedFeature:
    """R vectors of width D as they are stored."""

    values_RD: Float16 | Int8
    scale_R: Float32 | None
    """What int8 values are multiplied with; None for float16."""

    def unpack(self) -> Float32:
        """Return the vectors [R, D]."""
        values_RD: Float32 = self.values_RD.astype(np.float32)
        return values_RD if self.scale_R is None else values_RD * self.scale_R[:, None]


def pack_feature(values_RD: Float32, schema: FeatureSchema) -> PackedFeature:
    """Return vectors in compact form.

    An int8 value is off by at most half its vector's scale, which is the largest absolute value
    of the vector / 127; a float16 one by the rounding of float16. Where that scale would be below
    float32's smallest normal number (values below 1.5e-36), the vector is stored as zeros.

    Raises:
        InputError: the vectors are of another width, not finite, or too large for float16.
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
    if schema.dtype == "float16":
        return PackedFeature(values_RD=values_RD.astype(np.float16), scale_R=None)
    scale_R = (largest_R / LARGEST_INT8).astype(np.float32)
    # Below the smallest normal number a scale is too coarse to divide by; such vectors are zero.
    scale_R[scale_R < np.finfo(np.float32).tiny] = 0
    divisor_R1 = np.where(scale_R > 0, scale_R, np.inf)[:, None]
    return PackedFeature(values_RD=np.rint(values_RD / divisor_R1).astype(np.int8), scale_R=scale_R)
