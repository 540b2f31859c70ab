"""Several stores as one, each giving a share of an epoch's windows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from softtargets.errors import IdentityError, InputError
from softtargets.places.place import ReadCounts
from softtargets.store.store import Store
from softtargets.stream.common_targets import Difference, common_targets, first_difference
from softtargets.stream.order import Places, ShuffleQuality, shuffle_quality
from softtargets.targets import TargetSchema


class Mixture:
    """Stores that are streamed together: `SoftTargetDataset(Mixture(stores, weights))`.

    An epoch has as many windows of each store as its weight asks for. Every store has an order of
    its own, pass after pass over its windows, and goes on where the epoch before stopped: a store
    whose share is less than it has is seen in whole after several epochs, another more than once in
    one. In every 1,024 places of an epoch (more, where a share is below 1 / 1,024) each store has
    its share, less than two windows off, in random order.

    A batch may hold windows of any of the stores, of conversations and of texts alike. Stores may
    differ in their teachers, the length of their windows, which positions have a target, metadata,
    compression and format version. Of temperatures a batch has those that all stores have, and
    label logits if all of them do. In all else that is stored of a target they must agree.

    Args:
        stores: stores of the same kind of targets and one tokenizer, or their paths.
        weights: what share of an epoch's windows each gives, relative to the others; by default as
            many as it has, so that an epoch has every window once.
        epoch_windows: windows of an epoch; by default as many as all stores have.

    Raises:
        InputError: the weights do not fit the stores, or leave one without a window.
        IdentityError: the stores differ in their targets or their tokenizer.
        StoreError: a store cannot be opened.
    """

    def __init__(
        self,
        stores: Sequence[Store | str | Path],
        weights: Sequence[float] | None = None,
        *,
        epoch_windows: int | None = None,
    ) -> None:
        self.stores = tuple(one if isinstance(one, Store) else Store.open(one) for one in stores)
        sizes = [len(store) for store in self.stores]
        total = sum(sizes) if epoch_windows is None else epoch_windows
        self.counts = _share_out(total, sizes if weights is None else weights, len(sizes))
        """Windows that an epoch has of each store."""
        targets = self.stores[0].targets
        for store in self.stores[1:]:
            _check_fits(targets, self.stores[0], store)
            targets = common_targets(targets, store.targets)
        self.targets = targets
        """What a batch holds: temperatures that all stores have, label logits if all have them."""

    @property
    def fingerprint(self) -> str:
        """Return a hash of the stores' fingerprints and of their shares."""
        parts = [[one.fingerprint, n] for one, n in zip(self.stores, self.counts, strict=True)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def reads(self) -> ReadCounts:
        """Return what this process has read of stores behind URLs."""
        return sum((store.reads for store in self.stores), ReadCounts())

    @property
    def group_sizes(self) -> list[Places]:
        """Return the windows of each row group of each store."""
        return [store.row_groups.num_windows for store in self.stores]

    def window_ids(self, stores: Places, groups: Places, rows: Places) -> list[str]:
        """Return the ids of windows, by store, row group and row."""
        ids = np.empty(len(stores), "U32")
        for number, (store, sizes) in enumerate(zip(self.stores, self.group_sizes, strict=True)):
            is_own = stores == number
            if is_own.any():
                firsts = np.cumsum(sizes) - sizes
                ids[is_own] = store.window_ids(firsts[groups[is_own]] + rows[is_own])
        found: list[str] = ids.tolist()
        return found

    def shuffle_quality(self, stores: Places, groups: Places, rows: Places) -> ShuffleQuality:
        """Measure an order of windows, as if the stores were one."""
        num_groups = np.array([len(sizes) for sizes in self.group_sizes], np.int64)
        firsts: Places = np.cumsum(num_groups) - num_groups
        return shuffle_quality(groups + firsts[stores], rows, np.concatenate(self.group_sizes))

    def __len__(self) -> int:
        return sum(self.counts)

    def __repr__(self) -> str:
        parts = [
            f"{count:,} of {len(store):,} windows of {store!r}"
            for count, store in zip(self.counts, self.stores, strict=True)
        ]
        return f"Mixture({'; '.join(parts)})"


def _share_out(total: int, weights: Sequence[float], num_stores: int) -> tuple[int, ...]:
    """Return a total in whole shares: those with the largest remainders are rounded up."""
    given = np.array(weights, np.float64)
    is_sound = len(given) == num_stores > 0 and np.isfinite(given).all() and (given > 0).all()
    counts = np.zeros(num_stores, np.int64)
    if is_sound:
        shares = given / given.sum() * total
        counts = np.floor(shares).astype(np.int64)
        by_remainder = np.argsort(counts - shares, kind="stable")
        counts[by_remainder[: total - int(counts.sum())]] += 1
    if not is_sound or (counts < 1).any():
        raise InputError(
            "Mixture",
            expected="stores, a positive weight for each, and a window or more of each in an epoch",
            found=f"{num_stores} stores, weights {list(weights)}, {total:,} windows an epoch",
            next_step="Correct the weights, omit a store, or pass a larger epoch_windows.",
        )
    return tuple(counts.tolist())


def _tokenizer_hash(store: Store) -> str:
    """Return what tells a tokenizer from others: of an unknown one what it was imported from."""
    tokenizer = store.manifest.identity["tokenizer"]
    found: str = tokenizer.get("sha256") or tokenizer["source_sha256"]
    return found


def _check_fits(targets: TargetSchema, first: Store, other: Store) -> None:
    """Check that a batch may hold windows of a store beside what the stores before it have."""
    difference = first_difference(targets, other.targets)
    if difference is None and _tokenizer_hash(first) != _tokenizer_hash(other):
        difference = Difference(
            field="tokenizer",
            expected=_tokenizer_hash(first),
            found=_tokenizer_hash(other),
            next_step="Mix stores whose teachers have one tokenizer: the token ids must mean the "
            "same.",
        )
    if difference is not None:
        raise IdentityError(
            f"Mixture, {difference.field} of {other.location}",
            expected=f"{difference.expected!r}, as {first.location} has",
            found=f"{difference.found!r}",
            next_step=difference.next_step,
        )
