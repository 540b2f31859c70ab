"""Stores made from stores: merge, split, filter. One shard is in memory at a time.

A derived store has an identity, and so a fingerprint, of its own: that of what it was made from,
and in `derived` what was done, step by step. Like a build, an interrupted one is continued by the
same call.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from softtargets.errors import InputError
from softtargets.places.open_place import StorePath, place_to_write
from softtargets.places.place import Place
from softtargets.store.drift import merged_drift
from softtargets.store.new_store import write_store
from softtargets.store.rounding import merged_rounding
from softtargets.store.same_identity import check_identity
from softtargets.store.side_file import read_side_file
from softtargets.store.store import Store
from softtargets.window import Window

_log = logging.getLogger(__name__)


def merge_stores(paths: Sequence[StorePath], output: StorePath) -> Store:
    """Merge stores that differ in their corpus alone; a window that occurs again is left out.

    Raises:
        InputError: there are fewer than two.
        IdentityError: teacher, tokenizer, windowing or targets differ; the message names the field.
        StoreError: a store cannot be read, or the output cannot be written.
    """
    stores = [Store.open(path) for path in paths]
    if len(stores) < 2:
        raise InputError(
            "merge",
            expected="at least two stores",
            found=f"{len(stores)}",
            next_step="Name the stores to merge.",
        )
    first = _without_corpus(stores[0])
    for store in stores[1:]:
        check_identity(
            first,
            _without_corpus(store),
            str(store.location),
            f"Only stores made in the same way as {stores[0].location} can be merged with it.",
        )
    parts = [
        {"fingerprint": store.fingerprint, "corpus": store.manifest.identity["corpus"]}
        for store in stores
    ]
    identity = {**first, "corpus": {"merged": parts}}

    def is_new(number: int, window: Window) -> bool:
        return not any(window.window_id in earlier for earlier in stores[:number])

    windows = (
        window for number, store in enumerate(stores) for window in store if is_new(number, window)
    )
    return _write(windows, place_to_write(output), identity, stores)


def split_store(
    path: StorePath, train: StorePath, validation: StorePath, *, fraction: float, seed: int = 0
) -> tuple[Store, Store]:
    """Write the two parts of `Store.split` as stores; every window goes to exactly one of them.

    Args:
        path: the store.
        train: where the larger part goes.
        validation: where the documents that are held out go.
        fraction: share of the documents for validation.
        seed: of the choice.

    Raises:
        InputError: the fraction is not between 0 and 1, or a part would be empty.
        StoreError: the store cannot be read, or an output cannot be written.
    """
    store = Store.open(path)
    step = {"operation": "split", "fraction": fraction, "seed": seed}
    train_view, held_view = store.split(fraction, seed)
    return (
        _derive(store, place_to_write(train), step | {"part": "train"}, train_view),
        _derive(store, place_to_write(validation), step | {"part": "validation"}, held_view),
    )


def filter_store(
    path: StorePath,
    output: StorePath,
    *,
    sources: Sequence[str] | None = None,
    trained_only: bool = False,
) -> Store:
    """Keep the windows of some input files, or those with at least one target to train on.

    Args:
        path: the store.
        output: where the new one goes.
        sources: names of input files as in `Window.source`; None keeps all.
        trained_only: leave out windows whose mask is false everywhere.

    Raises:
        InputError: a source is not in the store's corpus, or nothing would be left.
        StoreError: the store cannot be read, or the output cannot be written.
    """
    store = Store.open(path)
    wanted = None if sources is None else sorted(set(sources))

    def keep(window: Window) -> bool:
        has_source = wanted is None or window.source in wanted
        return has_source and (not trained_only or bool(window.mask_T.any()))

    step = {"operation": "filter", "sources": wanted, "trained_only": trained_only}
    return _derive(store, place_to_write(output), step, filter(keep, store))


def _derive(
    store: Store, output: Place, step: Mapping[str, Any], windows: Iterable[Window]
) -> Store:
    identity = {
        **store.manifest.identity,
        "derived": [
            *store.manifest.identity.get("derived", []),
            {**step, "fingerprint": store.fingerprint},
        ],
    }
    return _write(windows, output, identity, [store])


def _write(
    windows: Iterable[Window], output: Place, identity: Mapping[str, Any], parents: Sequence[Store]
) -> Store:
    return write_store(
        windows,
        output,
        identity,
        teacher=parents[0].manifest.teacher,
        side_files=lambda: _side_files(parents),
        counts={},
        drift=_drift(parents),
        rounding=merged_rounding([parent.manifest.rounding for parent in parents]),
        next_step="Check the sources or the fraction; 'softtargets info --json' lists the input "
        "files.",
    )


def _drift(parents: Sequence[Store]) -> Mapping[str, Any]:
    """Return what holds of the drift of all; tell if nothing does though some have it."""
    found = [parent.manifest.drift for parent in parents]
    merged = merged_drift(found)
    if any(found) and not merged:
        _log.warning(
            "The new store does not say how far its engine is from transformers: its parents were "
            "compared with several models, or not all were compared."
        )
    return merged


def _side_files(parents: Sequence[Store]) -> dict[str, bytes]:
    """Return each file of the first that has it: a store of an older format has no vocabulary."""
    files: dict[str, bytes] = {}
    for parent in parents:
        for name, entry in parent.manifest.side_files.items():
            if name not in files:
                files[name] = read_side_file(parent.location, name, entry)
    return files


def _without_corpus(store: Store) -> dict[str, Any]:
    identity = {**store.manifest.identity}
    identity.pop("corpus")
    return identity
