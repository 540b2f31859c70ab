"""Check everything a store promises: every checksum, every count, every invariant."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from softtargets.errors import SoftTargetsError
from softtargets.places.ranges import RangeFile, check_size
from softtargets.store.invariants import Problem, check_window
from softtargets.store.layer_file import LAYERS_NAME
from softtargets.store.manifest import MANIFEST_NAME
from softtargets.store.output_head import OUTPUT_HEAD_NAME
from softtargets.store.shard_reader import ShardReader
from softtargets.store.shard_table import RowGroup, ShardEntry
from softtargets.store.shard_table_file import other_tables
from softtargets.store.side_file import SideFile, read_side_file
from softtargets.store.store import Store
from softtargets.store.stored_layers import read_layers
from softtargets.store.vocabulary import VOCABULARY_NAME
from softtargets.store.work_files import NAMED_BY_CONTENT
from softtargets.targets import Origin
from softtargets.window import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was checked, and what does not hold."""

    num_shards: int
    num_windows: int
    num_positions: int
    problems: tuple[Problem, ...]

    @property
    def is_sound(self) -> bool:
        """Return whether everything holds."""
        return not self.problems


def verify(
    store: Store | str | os.PathLike[str],
    *,
    fast: bool = False,
    on_shard: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Read a whole store and check it against its manifest and the format.

    Of a store in a directory one row group at a time is in memory; of one behind a URL, a shard.

    Args:
        store: a store, its path or its URL.
        fast: check the manifest, the footers and the sizes of all files, but read no targets.
        on_shard: called after each shard with (shards checked, shards in all).

    Raises:
        StoreError: the manifest itself cannot be read; damage below it is reported, not raised.
    """
    store = store if isinstance(store, Store) else Store.open(store)
    problems = [*_stray_files(store), *_count_problems(store), *_side_problems(store, fast)]
    num_windows = num_positions = 0
    seen: set[str] = set()
    shards = store.manifest.shards
    for index, entry in enumerate(shards):
        if fast:
            problems.extend(_footer_problems(store, index))
            num_windows += entry.num_windows
            num_positions += entry.num_positions
        else:
            for window in _checked_windows(store, entry, seen, problems):
                num_windows += 1
                num_positions += len(window.packed)
        if on_shard is not None:
            on_shard(index + 1, len(shards))
    return VerifyReport(
        num_shards=len(shards),
        num_windows=num_windows,
        num_positions=num_positions,
        problems=tuple(problems),
    )


def _repeated(where: str, window_id: str) -> Problem:
    return Problem(
        where=f"{where}, window {window_id}",
        expected="a window id that occurs once in the store",
        found="it again",
    )


def _footer_problems(store: Store, index: int) -> Iterator[Problem]:
    entry, location = store.manifest.shards[index], store.location
    try:
        check_size(location.where(entry.path), entry.num_bytes, location.size(entry.path))
        store.open_shard(index).close()
    except SoftTargetsError as error:
        yield _problem(error)


def _side_problems(store: Store, fast: bool) -> Iterator[Problem]:
    """Check the files beside the shards: their size, or all of them."""
    manifest = store.manifest
    head, layers, vocabulary = manifest.output_head, manifest.layers, manifest.vocabulary
    for name, entry, read in (
        (OUTPUT_HEAD_NAME, head, store.output_head),
        (LAYERS_NAME, layers, partial(read_layers, store)),
    ):
        if entry is not None:
            yield from _file_problems(store, name, entry, None if fast else read)
    if vocabulary is not None:
        look = None if fast else lambda: store.vocabulary
        yield from _file_problems(store, VOCABULARY_NAME, vocabulary, look)
        if not fast:
            yield from _vocabulary_problems(store)
    table = manifest.shard_table
    if table is not None:
        # It was read when the store was opened, which may be long ago.
        again = partial(read_side_file, store.location, table.path, table)
        yield from _file_problems(store, table.path, table, None if fast else again)
    for name in (OUTPUT_HEAD_NAME, LAYERS_NAME, VOCABULARY_NAME):
        if name not in manifest.side_files:
            yield from _unnamed_file(store, name)


def _unnamed_file(store: Store, name: str) -> Iterator[Problem]:
    """Find a file of the format that the manifest has lost."""
    try:
        size = store.location.size(name)
    except SoftTargetsError as error:
        yield _problem(error)
        return
    if size is not None:
        yield Problem(
            where=store.location.where(name),
            expected="no such file, or its size and SHA-256 in the manifest",
            found="the file alone",
        )


def _vocabulary_problems(store: Store) -> Iterator[Problem]:
    """Check that the tokens are those that the tokenizer can know."""
    try:
        vocabulary = store.vocabulary
    except SoftTargetsError:
        return  # Reported with its file.
    size = store.targets.tokenizer_vocab_size
    ids_N = np.empty(0, np.int32) if vocabulary is None else vocabulary.ids_N
    if len(ids_N) and not (ids_N[0] >= 0 and ids_N[-1] < size):
        yield Problem(
            where=store.location.where(VOCABULARY_NAME),
            expected=f"token ids from 0 to {size - 1}",
            found=f"from {ids_N[0]} to {ids_N[-1]}",
        )


def _file_problems(
    store: Store, name: str, entry: SideFile, read: Callable[[], object] | None
) -> Iterator[Problem]:
    location, where = store.location, store.location.where(name)
    try:
        if read is None:
            check_size(where, entry.num_bytes, location.size(name))
        else:
            read()
    except SoftTargetsError as error:
        yield _problem(error)


def _count_problems(store: Store) -> Iterator[Problem]:
    """Check that no shard was taken out of the manifest."""
    corpus, targets = store.manifest.corpus, store.targets
    counts = {"windows": len(store)}
    if targets.positions == "all" and not targets.convention.is_of_windows:
        counts["tokens"] = store.num_positions + targets.convention.shift * len(store)
    for name, found in counts.items():
        if corpus.get(name) != found:
            yield Problem(
                where=f"{store.location.where(MANIFEST_NAME)}, field corpus.{name}",
                expected=f"{found:,}, as the shards have",
                found=f"{corpus.get(name)}",
            )


def _stray_files(store: Store) -> Iterator[Problem]:
    """Find shards that the manifest does not list, and tables of shards that it does not name."""
    listed, table = set(store.manifest.shards.paths), store.manifest.shard_table
    try:
        paths = [path.rstrip("/") for path in store.location.list("shards")]
        paths += [] if table is None else other_tables(store.location, table)
    except SoftTargetsError as error:
        yield _problem(error)
        return
    for path in paths:
        if path.endswith(".parquet") and path not in listed:
            where = store.location.where(path)
            found = "another file"
            if NAMED_BY_CONTENT.fullmatch(path) or not path.startswith("shards/"):
                found = "one of a process that came late, which 'softtargets clean' removes"
            expected = "a shard of the manifest, or its table"
            yield Problem(where=where, expected=expected, found=found)


class _HashedFile:
    """A shard that is hashed while its ranges are read: the footer first, then every row group."""

    def __init__(self, file: RangeFile, footer_offset: int) -> None:
        self.where = file.where
        self._file = file
        self._footer_offset = footer_offset
        self._footer = b""
        self._digest = hashlib.sha256()
        self._end = 0

    def read_into(self, piece: memoryview, offset: int, xxh3: str, part: str) -> None:
        self._file.read_into(piece, offset, xxh3, part)
        if offset == self._footer_offset:
            self._footer = bytes(piece)
        elif offset == self._end:
            self._digest.update(piece)
            self._end += len(piece)

    def sha256(self) -> str | None:
        """Return the hash of the file, or None if not all of it was read."""
        if self._end != self._footer_offset:
            return None
        self._digest.update(self._footer)
        return self._digest.hexdigest()

    def close(self) -> None:
        self._file.close()


def _open(store: Store, entry: ShardEntry) -> _HashedFile:
    """Open a shard past the cache of a store behind a URL: what is there is to be checked."""
    file = store.location.open_uncached(entry.path, entry.num_bytes, entry.sha256)
    return _HashedFile(file, entry.num_bytes - entry.footer_bytes)


def _checked_windows(
    store: Store, entry: ShardEntry, seen: set[str], problems: list[Problem]
) -> Iterator[Window]:
    """Yield the readable windows of a shard, adding what is wrong to `problems`.

    The ids that were seen in the store are in `seen`.
    """
    origin = Origin.of(store.manifest.identity)
    try:
        file = _open(store, entry)
        with ShardReader(file, entry, store.targets, store.fingerprint) as reader:
            for number, group in enumerate(entry.row_groups):
                where = f"{reader.where}, row group {number}"
                windows = _read(reader, number, problems)
                if windows is None:
                    continue
                problems.extend(_size_problems(windows, group, where))
                for window in windows:
                    problems.extend(check_window(window, where, origin))
                    if window.window_id in seen:
                        problems.append(_repeated(reader.where, window.window_id))
                    seen.add(window.window_id)
                    yield window
            found = file.sha256()
            if found not in (None, entry.sha256):
                problems.append(
                    Problem(
                        where=reader.where, expected=f"SHA-256 {entry.sha256}", found=str(found)
                    )
                )
    except SoftTargetsError as error:
        problems.append(_problem(error))


def _read(reader: ShardReader, number: int, problems: list[Problem]) -> list[Window] | None:
    """Return the windows of a row group, or None if they cannot be read, adding why."""
    try:
        return reader.read_row_group(number, are_values_checked=False)
    except SoftTargetsError as error:
        problems.append(_problem(error))
        return None


def _size_problems(windows: list[Window], group: RowGroup, where: str) -> Iterator[Problem]:
    num_positions = sum(len(window.packed) for window in windows)
    if num_positions != group.num_positions:
        yield Problem(
            where=where,
            expected=f"{group.num_positions:,} positions",
            found=f"{num_positions:,}",
        )


def _problem(error: SoftTargetsError) -> Problem:
    return Problem(where=error.where, expected=error.expected, found=error.found)
