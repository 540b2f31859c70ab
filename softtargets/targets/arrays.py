"""Types of arrays, and of the columns of a row group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]
UInt8 = npt.NDArray[np.uint8]
UInt16 = npt.NDArray[np.uint16]
Int8 = npt.NDArray[np.int8]
Float16 = npt.NDArray[np.float16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

Cells = Mapping[str, Array]
"""Of every column, the part of one window: its cell."""
Columns = Mapping[str, Array]
"""Of every column of lists, its values in all rows of a row group."""
Offsets = Mapping[str, Sequence[int]]
"""Where the rows' cells begin in them, and the last one ends."""
