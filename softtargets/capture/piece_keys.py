"""Which pieces of a corpus a piece before them repeats, found exactly and in bounded memory.

Every piece has a key, the 128 bits of its id, and an ordinal. The keys of a slice are written into
partitions by their first bits, so a piece and its repeats are in the same one. A partition is read
in the order of the corpus and sorted, some keys at a time; the first of equal keys is kept. Keys
are hashes, so partitions are about equally large. One with more keys than are held at a time is
read several times, each time for those of other bits.

Time is that of sorting, O(n log n). Memory is 24 bytes for each key that is held, and as much again
while they are sorted; at most 2 x `MOST_KEYS` + `RUN_KEYS` are held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from softtargets.capture.slice_files import KEY, Keys, Ordinals, SliceFiles
from softtargets.places.at_once import answers

MOST_KEYS = 1 << 20
"""Keys that are read at a time, and as many that were read before are held beside them, about."""
RUN_KEYS = 1 << 19
"""Keys of a slice that are held before they are written."""
_SLICE_BITS = 40
"""Bits of an ordinal that tell the place in the slice; those above tell the slice."""


class KeyWriter:
    """Writes the keys of a slice's pieces into partitions.

    Args:
        files: are written to.
        number: of the slice.
        num_partitions: a power of two.
    """

    def __init__(self, files: SliceFiles, number: int, num_partitions: int) -> None:
        self.runs: list[list[int]] = []
        """How many keys of each partition every run has."""
        self._files, self._number = files, number
        self._num_partitions = num_partitions
        self._held: list[Keys] = []
        self._num_held = self._num_keys = 0

    def add(self, window_ids: Iterable[str]) -> None:
        """Add the keys of the next pieces."""
        content = b"".join(map(bytes.fromhex, window_ids))
        numbers_N2 = np.frombuffer(content, ">u8").reshape(-1, 2)
        keys = np.empty(len(numbers_N2), KEY)
        keys["high"], keys["low"] = numbers_N2[:, 0], numbers_N2[:, 1]
        keys["ordinal"] = np.arange(self._num_keys, self._num_keys + len(keys))
        self._num_keys += len(keys)
        self._held.append(keys)
        self._num_held += len(keys)
        if self._num_held >= RUN_KEYS:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if not self._num_held:
            return
        keys = np.concatenate(self._held)
        own = _bits(keys, 0, self._num_partitions)
        for partition in range(self._num_partitions):
            self._files.put_keys(self._number, len(self.runs), partition, keys[own == partition])
        self.runs.append(np.bincount(own, minlength=self._num_partitions).tolist())
        self._held, self._num_held = [], 0


def find_repeats(
    files: SliceFiles, partition: int, num_slices: int, num_partitions: int
) -> list[list[tuple[int, int]]]:
    """Write which pieces are repeats, of those whose keys are in a partition.

    Returns, for each flush, the slices that it has repeats of, and how many.

    Raises:
        StoreError: the place refused, or what was written before is gone.
    """
    runs = [found["runs"] for found in files.all_done("mapped", num_slices)]
    num_keys = sum(run[partition] for own in runs for run in own)
    num_passes = 1
    while num_keys > num_passes * MOST_KEYS:
        num_passes *= 2
    flushes: list[list[tuple[int, int]]] = []
    for own_bits in range(num_passes):
        firsts = np.empty(0, KEY)
        for keys in _some_at_a_time(_keys(files, partition, runs)):
            bits = _bits(keys, num_partitions.bit_length() - 1, num_passes)
            firsts, repeats = _split(np.concatenate([firsts, keys[bits == own_bits]]))
            if len(repeats):
                flushes.append(_write(files, partition, len(flushes), repeats))
    return flushes


def _keys(files: SliceFiles, partition: int, runs: list[list[list[int]]]) -> Iterator[Keys]:
    """Return the keys of a partition, in the order of the corpus."""
    counts = [
        (number, run, counts[partition])
        for number, own in enumerate(runs)
        for run, counts in enumerate(own)
    ]

    def read(count: tuple[int, int, int]) -> Keys:
        number, run, num_keys = count
        keys = files.keys(number, run, partition, num_keys).copy()
        keys["ordinal"] += np.uint64(number << _SLICE_BITS)
        return keys

    return answers(files.place, read, counts)


def _some_at_a_time(parts: Iterable[Keys]) -> Iterator[Keys]:
    held: list[Keys] = []
    for keys in parts:
        held.append(keys)
        if sum(map(len, held)) >= MOST_KEYS:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def _split(keys: Keys) -> tuple[Keys, Ordinals]:
    """Return the first of equal keys, and the ordinals of the others, rising."""
    keys = keys[np.lexsort((keys["ordinal"], keys["low"], keys["high"]))]
    is_repeat = np.zeros(len(keys), np.bool_)
    high, low = keys["high"], keys["low"]
    is_repeat[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    return keys[~is_repeat], np.sort(keys["ordinal"][is_repeat])


def _write(
    files: SliceFiles, partition: int, flush: int, repeats: Ordinals
) -> list[tuple[int, int]]:
    slices = (repeats >> np.uint64(_SLICE_BITS)).astype(np.int64)
    places = repeats & np.uint64((1 << _SLICE_BITS) - 1)
    counts = Counter(slices.tolist())
    for number in counts:
        files.put_repeats(number, partition, flush, places[slices == number])
    return sorted(counts.items())


def _bits(
    keys: Keys, num_before: int, num_values: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the bits of keys that come after some, as many as tell a power of two of values."""
    if num_values == 1:
        return np.zeros(len(keys), np.int64)
    shift = np.uint64(64 - num_before - (num_values.bit_length() - 1))
    return ((keys["high"] >> shift) & np.uint64(num_values - 1)).astype(np.int64)
