"""SoftTargetDataset: a store as a stream of windows or batches for any trainer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from softtargets.errors import InputError
from softtargets.store.store import Store
from softtargets.stream.arguments import (
    Tail,
    check_arguments,
    check_tokenizer,
    end_of_epoch,
    named_rank,
    own_batch_size,
)
from softtargets.stream.collate import collate_rows
from softtargets.stream.cursor import Cursor
from softtargets.stream.items import Items
from softtargets.stream.mixed_order import MixedOrder
from softtargets.stream.mixed_reader import MixedReader
from softtargets.stream.mixture import Mixture
from softtargets.stream.order import Share, ShuffleQuality
from softtargets.stream.progress import Progress
from softtargets.stream.read_ahead import OnError, StreamStats
from softtargets.stream.repack import repack
from softtargets.stream.world import check_collator, check_reader, check_world, own_share
from softtargets.targets.truncate import chosen_grid, truncated_schema

SHUFFLED_GROUPS = 16
"""Row groups shuffled together by default: 262,144 tokens, some 50 MB at k = 64."""


class SoftTargetDataset(IterableDataset[Any]):
    """The windows of a store, every one exactly once an epoch over all ranks and workers.

    *Order.* The window at a place of an epoch is a function of the store, `seed` and the epoch; the
    ranks take turns in it. A step of B windows on each of W ranks is always the same B * W windows,
    for any W. Call `set_epoch` before each epoch, as with torch's DistributedSampler; otherwise
    every epoch has the same order.

    *Steps.* All ranks deliver as many windows: places after the last window are filled with windows
    whose `window_id` is empty and whose mask is, so that they weigh nothing.

    *Resuming.* `state_dict` is one place, the same on every rank; `load_state_dict` continues there
    with any number of ranks and workers, and any batch size.

    By default it yields windows, for a DataLoader with `collate_fn=collate`. With `batch_size` it
    yields finished batches, for a DataLoader with `batch_size=None` or none at all; then the order
    is the same with DataLoader workers, too, and each batch knows its place, so that
    `state_dict(after=batch)` is exact whatever was prefetched.

    Args:
        store: a store, its path or its URL (`Store.open` takes credentials and a cache), or a
            `Mixture` of stores.
        shuffle: random order; otherwise that of the corpus.
        seed: of the order.
        rank: which of the `world_size` readers this is.
        world_size: how many readers share the epoch; 1 by default, but in a training of several
            processes it must be named.
        batch_size: windows of a batch on one rank; None to yield single windows.
        global_batch_size: instead of that, windows of a batch over all ranks.
        row_tokens: with `batch_size`, lay a batch's windows out anew in rows of at most so many
            tokens, several in one where they fit; see `repack`.
        piece_tokens: with `row_tokens`, cut windows into pieces of at most so many tokens.
        top_k: deliver only so many of the stored entries; the others join the tail, exactly.
        temperatures: deliver only these of the stored grid.
        tokenizer: the student's, of transformers: the teacher's token ids must mean the same to it.
        tail: what to do where the last batch is not full on every rank: "pad" it with windows that
            weigh nothing, "drop" it, or treat it as an "error".
        shuffle_groups: row groups (of 16,384 tokens) that are shuffled together, two times as many
            being held in memory; None for all of them, a uniform permutation.
        num_threads: that decode ahead in this process; 0 for none.
        stall_timeout: seconds to wait for a row group before an error is raised.
        on_error: "raise" if a row group is damaged; or "skip" it: its windows are replaced by
            padding, counted in `stats` and warned about.

    Raises:
        InputError: an argument is out of range, they do not go together, or the store's cache is
            too small.
        IdentityError: the tokenizer is another; the message names the first token that differs.
        StoreError: the store cannot be opened.
    """

    def __init__(
        self,
        store: Store | Mixture | str | Path,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        batch_size: int | None = None,
        global_batch_size: int | None = None,
        row_tokens: int | None = None,
        piece_tokens: int | None = None,
        top_k: int | None = None,
        temperatures: Sequence[float] | None = None,
        tokenizer: Any = None,
        tail: Tail = "pad",
        shuffle_groups: int | None = SHUFFLED_GROUPS,
        num_threads: int = 1,
        stall_timeout: float = 60.0,
        on_error: OnError = "raise",
    ) -> None:
        # A training of several processes needs them named, see softtargets.stream.world.
        self._named_world_size = world_size
        rank, world_size = named_rank(rank, world_size)
        if global_batch_size is not None:
            batch_size = own_batch_size(batch_size, global_batch_size, world_size)
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.batch_size = batch_size
        self.row_tokens = row_tokens
        self.piece_tokens = piece_tokens
        self.tail: Tail = tail
        self.shuffle_groups = shuffle_groups
        self.num_threads = num_threads
        self.stall_timeout = stall_timeout
        self.on_error: OnError = on_error
        check_arguments(self)
        self.store = store if isinstance(store, Store | Mixture) else Store.open(store)
        self._mixture = self.store if isinstance(self.store, Mixture) else Mixture([self.store])
        for one in self._mixture.stores:
            # What is read for a block and the one after it is not to drive itself out.
            one.check_cache(2 * (shuffle_groups or len(one.row_groups)))
        schema = self._mixture.targets
        schema = schema if top_k is None else truncated_schema(schema, top_k)
        self._schema = schema if temperatures is None else chosen_grid(schema, temperatures)
        if tokenizer is not None:
            check_tokenizer(self._mixture.stores[0], tokenizer)
        as_rows, skip_damaged = batch_size is not None, on_error == "skip"
        self._items = Items(self._mixture, self._schema, as_rows=as_rows, skip_damaged=skip_damaged)
        self._progress = Progress()
        self._stats = StreamStats()
        self._order: tuple[int, MixedOrder] | None = None

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the store or mixture, for the student's checkpoint."""
        return self.store.fingerprint

    @property
    def epoch(self) -> int:
        """Return the epoch that the next iteration delivers."""
        return self._progress.epoch

    def __repr__(self) -> str:
        batches = "" if self.batch_size is None else f", batch_size={self.batch_size}"
        return (
            f"SoftTargetDataset({self.store!r}, shuffle={self.shuffle}, seed={self.seed}, "
            f"rank={self.rank}, world_size={self.world_size}{batches})"
        )

    def __len__(self) -> int:
        """Return how many windows, or batches, this rank delivers in a whole epoch."""
        return len(range(0, self._stop(0), self._share().global_size))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, in worker processes too.

        Raises:
            InputError: it is before the one that was resumed and is not iterated yet.
        """
        self._progress.set_epoch(epoch)

    def stats(self) -> StreamStats:
        """Return what the last iteration in this process delivered, and what it waited for."""
        return replace(self._stats, errors=list(self._stats.errors))

    def shuffle_quality(self) -> ShuffleQuality:
        """Measure how well the epoch's order is shuffled; reads nothing."""
        order = self._epoch_order()
        return self._mixture.shuffle_quality(*order.windows(0, len(order)))

    def plan(self, step: int) -> list[str]:
        """Return the ids of the windows of a step over all ranks, counted from the epoch's start.

        A step is a batch on each rank, or a window without `batch_size`. The ids of the whole store
        are read on the first call; after that nothing is.

        Raises:
            InputError: the epoch has no such step.
        """
        size = self._share().global_size
        if not 0 <= step < len(self):
            raise InputError(
                "SoftTargetDataset.plan",
                expected=f"a step from 0 to {len(self) - 1}",
                found=f"{step}",
                next_step="len(dataset) is the number of steps.",
            )
        windows = self._epoch_order().windows(step * size, (step + 1) * size)
        return self._mixture.window_ids(*windows)

    def state_dict(self, after: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return where this dataset is, to be given to `load_state_dict` on every rank.

        Args:
            after: the last batch that was trained on, of a dataset with `batch_size`. Needed where
                something fetches ahead (DataLoader workers, accelerate); otherwise the place after
                what this object has delivered is meant.

        Raises:
            InputError: worker processes deliver, so that this object does not know its place.
        """
        return self._cursor(*self._progress.after(after)).to_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken: the next iteration of that epoch starts there.

        Raises:
            IdentityError: the state belongs to another store or order.
        """
        cursor = Cursor.from_dict(state)
        cursor.check(self._cursor(cursor.epoch, cursor.place), len(self._mixture))
        self._progress.resume(cursor.epoch, cursor.place)

    def __iter__(self) -> Iterator[Any]:
        check_world(self._named_world_size)
        check_reader(self)
        check_collator(self, "windows" if self.batch_size is None else "finished batches")
        share, epoch = self._share(), self.epoch
        start = self._progress.begin(share.worker, share.num_workers)
        self._stats = StreamStats()
        return self._stream(epoch, self._epoch_order(), share, start, self._stop(start))

    def _stream(
        self, epoch: int, order: MixedOrder, share: Share, start: int, stop: int
    ) -> Iterator[Any]:
        started, stats = time.perf_counter(), self._stats
        reads_before = self._mixture.reads
        with MixedReader(
            order,
            [store.row_groups for store in self._mixture.stores],
            self._items.reads,
            share,
            start,
            min(stop, len(order)),
            num_threads=self.num_threads,
            stall_timeout=self.stall_timeout,
            on_error=self.on_error,
            stats=stats,
        ) as reader:
            for number, places in enumerate(share.steps(start, stop), start=1):
                items = self._items.at(reader, places.tolist(), stats)
                # Past this step of every worker, as far as this one knows.
                self._progress.place = start + number * share.global_size * share.num_workers
                stats.seconds = time.perf_counter() - started
                stats.reads = self._mixture.reads - reads_before
                if self.batch_size is None:
                    yield items[0]
                else:
                    batch = collate_rows(items, self._schema)
                    if self.row_tokens is not None:
                        batch = repack(batch, self.row_tokens, self.piece_tokens)
                    batch["epoch"] = epoch
                    batch["next_place"] = int(places[0]) - share.rank + share.global_size
                    yield batch

    def _stop(self, start: int) -> int:
        """Return where delivery ends; places from the number of windows on are padding."""
        return end_of_epoch(start, len(self._mixture), self._share().global_size, self.tail)

    def _epoch_order(self) -> MixedOrder:
        if self._order is None or self._order[0] != self.epoch:
            order = MixedOrder(
                self._mixture.group_sizes,
                self._mixture.counts,
                shuffle=self.shuffle,
                seed=self.seed,
                epoch=self.epoch,
                block_groups=self.shuffle_groups,
            )
            self._order = self.epoch, order
        return self._order[1]

    def _share(self) -> Share:
        return own_share(self.rank, self.world_size, self.batch_size or 1)

    def _cursor(self, epoch: int, place: int) -> Cursor:
        share = self._share()
        return Cursor(
            fingerprint=self.fingerprint,
            shuffle=self.shuffle,
            seed=self.seed,
            shuffle_groups=self.shuffle_groups if self.shuffle else None,
            epoch=epoch,
            place=place,
            worker=share.worker,
            num_workers=share.num_workers,
        )
