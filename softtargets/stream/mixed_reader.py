"""What stands at the places of an epoch, read from the stores that the places are dealt to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic

from softtargets.store.shard_table import RowGroupRef
from softtargets.stream.mixed_order import MixedOrder
from softtargets.stream.order import Places, Share
from softtargets.stream.read_ahead import BlockReader, Item, OnError, StreamStats


class MixedReader(Generic[Item]):
    """Gives windows, or their rows, at rising places of an epoch; reads ahead in each store.

    Close it, or use it as a context: its threads end then.

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
        self._pool = ThreadPoolExecutor(num_threads, "softtargets") if num_threads else None
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
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def item(self, place: int) -> Item | None:
        """Return what is at a place; None when its row group is damaged and to be skipped.

        Raises:
            CorruptionError, FormatError, IdentityError: the row group is not what was committed.
            StoreError: it did not come in time.
        """
        store, own_place = self._order.at(place)
        return self._readers[store].item(own_place)


def _own(share: Share, start: int, stop: int, offset: int, places: Places) -> Places:
    """Return which places of the only store are this share's."""
    return share.own(places - offset, start, stop) + offset


def _between(start: int, stop: int, places: Places) -> Places:
    """Return which places of a store any share is given: all ranks read them."""
    return places[(places >= start) & (places < stop)]
