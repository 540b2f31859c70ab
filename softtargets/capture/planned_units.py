"""The units of a plan as columns: an object for each of a million would take too much."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.window import TokenWindow

Numbers = npt.NDArray[np.int64]
_COLUMNS = ("unit", "num_windows", "num_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A piece of work: the windows of one shard."""

    unit: int
    num_windows: int
    num_tokens: int


class UnitSizes:
    """The sizes of units that are being planned."""

    def __init__(self) -> None:
        self._num_windows, self._num_tokens = array("q"), array("q")

    def add(self, windows: Sequence[TokenWindow]) -> None:
        """Add the unit of some windows."""
        self._num_windows.append(len(windows))
        self._num_tokens.append(sum(map(len, windows)))

    def to_dict(self) -> dict[str, list[int]]:
        """Return the sizes, as JSON has them."""
        return {"num_windows": list(self._num_windows), "num_tokens": list(self._num_tokens)}

    def extend(self, sizes: Mapping[str, Sequence[int]]) -> None:
        """Add units that come after these."""
        self._num_windows.extend(sizes["num_windows"])
        self._num_tokens.extend(sizes["num_tokens"])

    def units(self) -> PlannedUnits:
        """Return the units."""
        return PlannedUnits(
            np.array(self._num_windows, np.int64), np.array(self._num_tokens, np.int64)
        )

    def __len__(self) -> int:
        return len(self._num_windows)


class PlannedUnits(Sequence[Unit]):
    """The units of a plan, numbered from 0. A `Unit` is made when it is asked for.

    Args:
        num_windows: of each unit [U].
        num_tokens: of each unit [U].
    """

    def __init__(self, num_windows: Numbers, num_tokens: Numbers) -> None:
        self._num_windows, self._num_tokens = num_windows, num_tokens
        self.num_windows = int(num_windows.sum())
        """Of all units."""
        self.num_tokens = int(num_tokens.sum())
        """Of all units."""

    @classmethod
    def of(cls, units: Iterable[Unit]) -> PlannedUnits:
        """Return some units, which are numbered from 0."""
        pairs = [(unit.num_windows, unit.num_tokens) for unit in units]
        columns_U2 = np.array(pairs, np.int64).reshape(-1, 2)
        return cls(columns_U2[:, 0], columns_U2[:, 1])

    def __len__(self) -> int:
        return len(self._num_windows)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PlannedUnits)
            and np.array_equal(self._num_windows, other._num_windows)
            and np.array_equal(self._num_tokens, other._num_tokens)
        )

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> Unit: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Unit, ...]: ...

    def __getitem__(self, index: int | slice) -> Unit | tuple[Unit, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(len(self))))
        unit = range(len(self))[index]
        return Unit(
            unit=unit,
            num_windows=int(self._num_windows[unit]),
            num_tokens=int(self._num_tokens[unit]),
        )

    def encode(self) -> bytes:
        """Return the units as a Parquet file, a row for each."""
        columns = (np.arange(len(self)), self._num_windows, self._num_tokens)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(dict(zip(_COLUMNS, columns, strict=True))), sink)
        content: bytes = sink.getvalue().to_pybytes()
        return content

    @classmethod
    def decode(cls, content: bytes) -> PlannedUnits:
        """Return the units of a file that `encode` made.

        Raises:
            ValueError: they are not numbered from 0, or one has no window or no token.
            pyarrow.ArrowException, OSError, KeyError: it is none.
        """
        table = pq.read_table(pa.BufferReader(content))
        unit, num_windows, num_tokens = (
            table.column(name).cast(pa.int64()).to_numpy() for name in _COLUMNS
        )
        if not np.array_equal(unit, np.arange(len(unit))):
            raise ValueError("units that are not numbered from 0")
        if (num_windows < 1).any() or (num_tokens < 1).any():
            raise ValueError("a unit without windows or tokens")
        return cls(num_windows, num_tokens)
