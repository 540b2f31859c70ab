"""What is written while slices of a corpus are planned, and read by the next stage.

    work/slices/slicing.json        how the corpus is cut, and whose build it is
    work/slices/pieces-S-C.parquet  chunk C of the pieces of slice S, in order
    work/slices/lengths-S.bin       how many tokens each of them has
    work/slices/keys-S-R-P.bin      their keys that belong to partition P, run R of them
    work/slices/mapped-S.json       what was counted of slice S; written last
    work/slices/repeats-S-P-N.bin   pieces of slice S that a piece before them repeats
    work/slices/reduced-P.json      how many those of partition P are; written last
    work/slices/written-S.json      sizes of the units that begin in slice S, which are written

Each file is a function of the corpus and of what is before it in this list. So a process that was
thought dead can only write what is there already.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.errors import FormatError
from softtargets.hashes import hash_bytes
from softtargets.places.at_once import answers
from softtargets.places.leftovers import Leftovers
from softtargets.places.place import Place
from softtargets.store.codec import decode_tokens, encode_tokens
from softtargets.store.json_object import parse_object
from softtargets.store.work_files import OF_REQUEST, SLICES
from softtargets.targets import Int32
from softtargets.window import TokenWindow

KEY = np.dtype([("high", "<u8"), ("low", "<u8"), ("ordinal", "<u8")])
"""A piece's id of 128 bits, and its place in its slice."""
Keys = npt.NDArray[np.void]
Ordinals = npt.NDArray[np.uint64]
_SLICING = f"{SLICES}/slicing.json"
_ORDINAL = np.dtype("<u8")
_LENGTH = np.dtype("<i4")


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceFiles:
    """The files of a build's slices in its place."""

    place: Place
    slicing: str
    """Hash of `slicing.json`: markers of other slices do not count."""

    @classmethod
    def begin(cls, place: Place, slicing: Mapping[str, Any]) -> SliceFiles:
        """Go on with files that were begun for the same slices, or remove them and begin.

        Raises:
            StoreError: the place refused.
        """
        content = json.dumps(slicing, sort_keys=True).encode()
        place.make_directory(SLICES)
        if place.get(_SLICING) != content:
            Leftovers(place=place, directories=(SLICES,)).remove(OF_REQUEST)
            place.put(_SLICING, content)
        return cls(place=place, slicing=hash_bytes(content))

    def put_marker(self, stage: str, number: int, found: Mapping[str, Any]) -> None:
        """Note that a part of a stage is done, and what was found."""
        content = json.dumps({"slicing": self.slicing, **found}).encode()
        self.place.put(marker_path(stage, number), content)

    def marker(self, stage: str, number: int) -> dict[str, Any] | None:
        """Return what was found by a part of a stage, or None if it is not done."""
        path = marker_path(stage, number)
        content = self.place.get(path)
        found = None if content is None else parse_object(content, self.place.where(path))
        return found if found is not None and found.get("slicing") == self.slicing else None

    def done(self, stage: str, number: int) -> dict[str, Any]:
        """Return what was found by a part of a stage that is done.

        Raises:
            FormatError: it is not.
        """
        found = self.marker(stage, number)
        return self._none(marker_path(stage, number)) if found is None else found

    def all_done(self, stage: str, num_parts: int) -> Iterator[dict[str, Any]]:
        """Yield what was found by each part of a stage that is done, in order.

        Raises:
            FormatError: a part is not.
        """
        return answers(self.place, partial(self.done, stage), range(num_parts))

    def put_pieces(self, number: int, chunk: int, pieces: Sequence[TokenWindow]) -> None:
        """Write a chunk of the pieces of a slice."""
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(encode_tokens(pieces)), sink, compression="zstd")
        self.place.put(_pieces_path(number, chunk), sink.getvalue().to_pybytes())

    def pieces(
        self, number: int, chunk: int, is_kept_N: npt.NDArray[np.bool_]
    ) -> list[TokenWindow]:
        """Return the pieces of a chunk that are kept.

        Raises:
            FormatError: they cannot be read.
        """
        path = _pieces_path(number, chunk)
        content = self.place.get(path)
        if content is None:
            self._none(path)
        table = pq.read_table(pa.BufferReader(content))
        self._check(path, len(is_kept_N), len(table))
        if not is_kept_N.all():
            table = table.filter(pa.array(is_kept_N))
        return decode_tokens(table)

    def put_lengths(self, number: int, lengths_N: Int32) -> None:
        """Write the lengths of all pieces of a slice."""
        self.place.put(_lengths_path(number), lengths_N.astype(_LENGTH).tobytes())

    def lengths(self, number: int, num_pieces: int) -> Int32:
        """Return the lengths of so many pieces of a slice.

        Raises:
            FormatError: there are others.
        """
        return self._array(_lengths_path(number), _LENGTH, num_pieces)

    def put_keys(self, number: int, run: int, partition: int, keys: Keys) -> None:
        """Write keys of a slice."""
        self.place.put(_keys_path(number, run, partition), keys.tobytes())

    def keys(self, number: int, run: int, partition: int, num_keys: int) -> Keys:
        """Return so many keys of a slice.

        Raises:
            FormatError: there are others.
        """
        return self._array(_keys_path(number, run, partition), KEY, num_keys)

    def put_repeats(self, number: int, partition: int, flush: int, ordinals: Ordinals) -> None:
        """Write which pieces of a slice are repeats."""
        content = ordinals.astype(_ORDINAL).tobytes()
        self.place.put(_repeats_path(number, partition, flush), content)

    def repeats(self, number: int, partition: int, flush: int, num_repeats: int) -> Ordinals:
        """Return which pieces of a slice are repeats.

        Raises:
            FormatError: there are others.
        """
        path = _repeats_path(number, partition, flush)
        return self._array(path, _ORDINAL, num_repeats)

    def _array(self, path: str, dtype: np.dtype[Any], num: int) -> npt.NDArray[Any]:
        content = self.place.get(path)
        if content is None:
            self._none(path)
        self._check(path, num * dtype.itemsize, len(content))
        return np.frombuffer(content, dtype)

    def _check(self, path: str, expected: int, found: int) -> None:
        if found != expected:
            raise self._spoiled(path, f"{found:,} instead of {expected:,}")

    def _none(self, path: str) -> NoReturn:
        raise self._spoiled(path, "no file")

    def _spoiled(self, path: str, found: str) -> FormatError:
        return FormatError(
            self.place.where(path),
            expected="what an earlier stage of planning wrote",
            found=found,
            next_step="Delete the directory slices in the store's directory work, and run the same "
            "command again: the corpus is planned anew.",
        )


def marker_path(stage: str, number: int) -> str:
    """Return the marker of a part of a stage."""
    return f"{SLICES}/{stage}-{number:06d}.json"


def _pieces_path(number: int, chunk: int) -> str:
    return f"{SLICES}/pieces-{number:06d}-{chunk:06d}.parquet"


def _lengths_path(number: int) -> str:
    return f"{SLICES}/lengths-{number:06d}.bin"


def _keys_path(number: int, run: int, partition: int) -> str:
    return f"{SLICES}/keys-{number:06d}-{run:06d}-{partition:06d}.bin"


def _repeats_path(number: int, partition: int, flush: int) -> str:
    return f"{SLICES}/repeats-{number:06d}-{partition:06d}-{flush:06d}.bin"
