"""The windows of an epoch's blocks, decoded ahead of their delivery by threads of this process."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Literal, TypeVar

import numpy as np

from softtargets.errors import CorruptionError, StoreError
from softtargets.places.place import ReadCounts
from softtargets.store.row_group_table import RowGroupRef
from softtargets.stream.order import Block, Places

OnError = Literal["raise", "skip"]
Item = TypeVar("Item")


@dataclass(slots=True)
class StreamStats:
    """What one iteration has delivered so far, and what it waited for."""

    windows: int = 0
    """Delivered by this process, padding left out."""
    tokens: int = 0
    seconds: float = 0.0
    """Since the first was asked for."""
    stall_seconds: float = 0.0
    """Of these, how long the reader of the stream waited for row groups to be decoded."""
    skipped_windows: int = 0
    """Left out because their row group is damaged."""
    errors: list[str] = field(default_factory=list)
    """Why, one for each row group."""
    reads: ReadCounts = field(default_factory=ReadCounts)
    """Cache hits, bytes and retries of a store behind a URL, in this process."""

    @property
    def tokens_per_second(self) -> float:
        """Return the rate, the time of whoever reads the stream included."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class _Pending(Generic[Item]):
    """A block, and its row groups that are being decoded, by their number."""

    first: int
    """Place of its first window."""
    groups: list[int]
    """Of each place, the number of its row group."""
    rows: list[int]
    """And which of that row group's windows it is."""
    reads: Mapping[int, Callable[[], Sequence[Item]]]


class BlockReader(Generic[Item]):
    """Gives the windows, or their rows, at rising places of a store's order; reads a block ahead.

    At most two blocks are in memory.

    Args:
        row_groups: of the store, in the order of the corpus.
        read: what gives the windows, or the rows, of a row group.
        blocks: of the order, from the first place that will be asked for.
        wanted: which of some places will be asked for; row groups that hold none are not read.
        pool: whose threads decode; None decodes when something is asked for.
        stall_timeout: seconds to wait for a row group.
        on_error: whether a damaged row group is raised, or its windows are left out and counted.
        stats: what is kept up to date.
    """

    def __init__(
        self,
        row_groups: Sequence[RowGroupRef],
        read: Callable[[RowGroupRef], Sequence[Item]],
        blocks: Iterator[Block],
        wanted: Callable[[Places], Places],
        *,
        pool: Executor | None,
        stall_timeout: float,
        on_error: OnError,
        stats: StreamStats,
    ) -> None:
        self._row_groups, self._read = row_groups, read
        self._blocks, self._wanted = blocks, wanted
        self._pool = pool
        self._stall_timeout = stall_timeout
        self._on_error = on_error
        self._stats = stats
        self._pending: deque[_Pending[Item]] = deque()
        self._ready: dict[int, Sequence[Item] | None] = {}

    def item(self, place: int) -> Item | None:
        """Return what is at a place; None when its row group is damaged and to be skipped.

        Raises:
            CorruptionError, FormatError, IdentityError: the row group is not what was committed.
            StoreError: it did not come in time.
        """
        while not self._pending or place >= self._end(self._pending[0]):
            self._next_block()
        pending = self._pending[0]
        at = place - pending.first
        group = pending.groups[at]
        if group not in self._ready:
            self._ready[group] = self._wait_for(group, pending.reads[group])
        items = self._ready[group]
        return None if items is None else items[pending.rows[at]]

    @staticmethod
    def _end(pending: _Pending[Item]) -> int:
        return pending.first + len(pending.rows)

    def _next_block(self) -> None:
        if self._pending:
            self._pending.popleft()
            self._ready.clear()
        while len(self._pending) < 2 and (block := next(self._blocks, None)) is not None:
            groups = block.row_groups[block.members].tolist()
            pending = _Pending(block.first, groups, block.rows.tolist(), self._submit(block))
            self._pending.append(pending)

    def _submit(self, block: Block) -> dict[int, Callable[[], Sequence[Item]]]:
        """Begin to decode the row groups of a block that this share needs, in their order."""
        places = self._wanted(np.arange(len(block)) + block.first)
        members = block.members[places - block.first]
        _, first_uses = np.unique(members, return_index=True)
        groups = block.row_groups[members[np.sort(first_uses)]].tolist()
        return {group: self._decode(self._row_groups[group]) for group in groups}

    def _decode(self, ref: RowGroupRef) -> Callable[[], Sequence[Item]]:
        if self._pool is None:
            return partial(self._read, ref)
        future = self._pool.submit(self._read, ref)
        return partial(future.result, self._stall_timeout)

    def _wait_for(self, group: int, read: Callable[[], Sequence[Item]]) -> Sequence[Item] | None:
        started = time.perf_counter()
        try:
            return read()
        except FutureTimeoutError as error:
            ref = self._row_groups[group]
            raise StoreError(
                f"shard {ref.shard}, row group {ref.group}",
                expected=f"to be read within {self._stall_timeout:g} seconds",
                found="nothing yet",
                next_step="Check the disk or network, or pass a larger stall_timeout.",
            ) from error
        except CorruptionError as error:
            if self._on_error == "raise":
                raise
            warnings.warn(f"Windows are skipped. {error}", RuntimeWarning, stacklevel=2)
            self._stats.errors.append(str(error))
            return None
        finally:
            self._stats.stall_seconds += time.perf_counter() - started
