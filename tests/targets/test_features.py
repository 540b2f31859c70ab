from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from softtargets.errors import InputError
from softtargets.kinds import FeatureSchema
from softtargets.targets.features import pack_feature, unpack_feature
from tests.windows import as_bfloat16

DType = Literal["float16", "int8", "bfloat16", "float32"]


def feature(dtype: DType, width: int = 4) -> FeatureSchema:
    return FeatureSchema(name="layer_3", width=width, rows="tokens", dtype=dtype)


def there_and_back(values_RD: np.ndarray, schema: FeatureSchema) -> np.ndarray:
    return unpack_feature(pack_feature(values_RD, schema), schema)


vectors = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.just(4)),
    elements=st.floats(-60_000, 60_000, width=32),
)


@pytest.mark.slow
@given(vectors)
def test_float16_rounds_and_int8_is_off_by_half_a_scale(values_RD: np.ndarray) -> None:
    half = there_and_back(values_RD, feature("float16"))
    np.testing.assert_array_equal(half, values_RD.astype(np.float16).astype(np.float32))
    scale_R = pack_feature(values_RD, feature("int8"))["feature_layer_3_scale"]
    error_RD = np.abs(there_and_back(values_RD, feature("int8")) - values_RD)
    # A vector whose scale would be no normal number is stored as zeros.
    least = 127 * np.finfo(np.float32).tiny
    assert (error_RD <= np.where(scale_R > 0, scale_R * 0.501, least)[:, None]).all()


def test_a_vector_of_zeros_stays_one() -> None:
    assert (there_and_back(np.zeros((2, 4), np.float32), feature("int8")) == 0).all()


@pytest.mark.parametrize("dtype", ["float16", "int8", "bfloat16", "float32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(dtype: DType, bad: float) -> None:
    values_RD = np.ones((3, 4), np.float32)
    values_RD[1, 2] = bad
    with pytest.raises(InputError, match=f"feature layer_3: .* found {bad}"):
        pack_feature(values_RD, feature(dtype))


def test_what_float16_cannot_hold_is_refused_and_not_clamped() -> None:
    values_RD = np.full((1, 4), 70_000, np.float32)
    with pytest.raises(InputError, match=r"at most 65504 in float16; found 70000\. .* int8"):
        pack_feature(values_RD, feature("float16"))
    assert there_and_back(values_RD, feature("int8")) == pytest.approx(values_RD)


def test_another_width_is_refused() -> None:
    with pytest.raises(InputError, match=r"vectors of width 5; found an array of shape \[1, 4\]"):
        pack_feature(np.zeros((1, 4), np.float32), feature("int8", width=5))


finite = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.just(4)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@pytest.mark.slow
@given(finite)
def test_bfloat16_and_float32_are_exact(values_RD: np.ndarray) -> None:
    """Bit for bit: the smallest numbers and the sign of zero too."""
    for dtype, exact_RD in (("float32", values_RD), ("bfloat16", as_bfloat16(values_RD))):
        schema = feature(dtype)  # type: ignore[arg-type]
        [stored_RD] = pack_feature(exact_RD, schema).values()
        assert stored_RD.itemsize == (4 if dtype == "float32" else 2)
        assert there_and_back(exact_RD, schema).tobytes() == exact_RD.tobytes()


def test_bfloat16_is_that_of_torch() -> None:
    values = torch.randn((5, 4), generator=torch.Generator().manual_seed(0)).bfloat16()
    [stored_RD] = pack_feature(values.float().numpy(), feature("bfloat16")).values()
    assert stored_RD.tobytes() == values.view(torch.int16).numpy().tobytes()


@pytest.mark.parametrize("value", [1.001, 1 + 2**-8, 3.4e38, 1e-45])
def test_what_bfloat16_cannot_hold_is_refused_and_not_rounded(value: float) -> None:
    values_RD = np.ones((3, 4), np.float32)
    values_RD[1, 2] = value
    with pytest.raises(InputError, match="numbers that bfloat16 holds exactly"):
        pack_feature(values_RD, feature("bfloat16"))
