"""What stands at the places of an epoch, read from the stores that the places are dealt to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Generic
from weakref import finalize

from softtargets.store.row_group_table import RowGroupRef
from softtargets.stream.mixed_order import MixedOrder
from softtargets.stream.order import Places, Share
from softtargets.stream.read_ahead import BlockReader, Item, OnError, StreamStats

_MOST_CLOSE_SECONDS = 1.0
_POOL_NUMBERS = count()


class MixedReader(Generic[Item]):
    """Gives windows, or their rows, at rising places of an epoch; reads ahead in each store.

    Use it as a context: its threads end with it. One that is waiting for a disk or a network then
    is left alone after a second, and ends when what it waits for comes.

    Args:
        order: of the epoch.
        row_groups: of each store.
        reads: what gives the windows, or the rows, of a row group of each store.
        share: which places will be asked for.
        start: first place that any reader delivers.
        stop: end of the places that any reader delivers.
        num_threads: that decode; 0 decodes when something is asked for.
        stall_timeout: seconds to wait for a row group.
        on_error: whether a damaged row group is raised, or its windows are left out and counted.
        stats: what is kept up to date.
    """

    def __init__(
        self,
        order: MixedOrder,
        row_groups: Sequence[Sequence[RowGroupRef]],
        reads: Sequence[Callable[[RowGroupRef], Sequence[Item]]],
        share: Share,
        start: int,
        stop: int,
        *,
        num_threads: int,
        stall_timeout: float,
        on_error: OnError,
        stats: StreamStats,
    ) -> None:
        self._order = order
        threads = f"softtargets-{next(_POOL_NUMBERS)}"
        self._pool = ThreadPoolExecutor(num_threads, threads) if num_threads else None
        # Also run at the interpreter's exit, where an iteration that was left open ends too late.
        self._close = finalize(self, _close_pool, self._pool, f"{threads}_")
        firsts, ends = order.given(start), order.given(stop)
        if order.num_stores == 1:
            wanted = [partial(_own, share, start, stop, firsts[0] - start)]
        else:
            wanted = [partial(_between, *one) for one in zip(firsts, ends, strict=True)]
        self._readers = [
            BlockReader(
                row_groups[store],
                reads[store],
                order.blocks(store, firsts[store]),
                wanted[store],
                pool=self._pool,
                stall_timeout=stall_timeout,
                on_error=on_error,
                stats=stats,
            )
            for store in range(order.num_stores)
        ]

    def __enter__(self) -> MixedReader[Item]:
        return self

    def __exit__(self, *exception: object) -> None:
        self._readers.clear()
        self._close()

    def item(self, place: int) -> Item | None:
        """Return what is at a place; None when its row group is damaged and to be skipped.

        Raises:
            CorruptionError, FormatError, IdentityError: the row group is not what was committed.
            StoreError: it did not come in time.
        """
        store, own_place = self._order.at(place)
        return self._readers[store].item(own_place)


def _close_pool(pool: ThreadPoolExecutor | None, names: str) -> None:
    """End a pool, whose threads' names begin so."""
    if pool is None:
        return
    pool.shutdown(wait=False, cancel_futures=True)
    deadline = time.monotonic() + _MOST_CLOSE_SECONDS
    for thread in threading.enumerate():
        if thread.name.startswith(names):
            thread.join(max(0, deadline - time.monotonic()))


def _own(share: Share, start: int, stop: int, offset: int, places: Places) -> Places:
    """Return which places of the only store are this share's."""
    return share.own(places - offset, start, stop) + offset


def _between(start: int, stop: int, places: Places) -> Places:
    """Return which places of a store any share is given: all ranks read them."""
    return places[(places >= start) & (places < stop)]
