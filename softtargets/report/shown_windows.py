"""Which windows of a store are shown, named or evenly spread, and where their documents begin."""

from __future__ import annotations

import numpy as np

from softtargets.errors import CorruptionError, InputError
from softtargets.report.distribution import evenly_spread
from softtargets.store import Store, StoreView
from softtargets.store.invariants import check_window
from softtargets.targets import Origin
from softtargets.window import TokenWindow, Window

_MOST_NAMED = 5


def find_window(store: Store, prefix: str) -> Window:
    """Return the window whose id begins like this.

    Raises:
        InputError: none does, or several.
        CorruptionError, FormatError or IdentityError: a shard is not what was committed, or the
            window contradicts itself.
    """
    found = store.ids_beginning(prefix, _MOST_NAMED + 1)
    if len(found) == 1:
        return sound(store, store[found[0]])
    more = ", and more" if len(found) > _MOST_NAMED else ""
    raise InputError(
        f"{store.location}, window {prefix}",
        expected="the id of a window, or so much of it that no other begins alike",
        found=f"{', '.join(found[:_MOST_NAMED])}{more}" if found else "no window with it",
        next_step="'softtargets inspect STORE --list' prints the ids.",
    )


def sampled(store: Store, most: int) -> Store:
    """Return a store, or the view of `most` of its windows that are evenly spread over it."""
    if most >= len(store):
        return store
    choice = {"operation": "sample", "num_windows": most}
    return StoreView(store, evenly_spread(len(store), most), choice)


def sound(store: Store, window: Window) -> Window:
    """Return a window that keeps what the format promises; else nothing said of it were true.

    Raises:
        CorruptionError: it does not; the message names the first promise.
    """
    for problem in check_window(window, str(store.location), Origin.of(store.manifest.identity)):
        raise CorruptionError(
            problem.where,
            expected=problem.expected,
            found=problem.found,
            next_step="'softtargets verify' lists all that is wrong with the store. Restore it "
            "from a copy, or build it again.",
        )
    return window


def document_starts(window: TokenWindow) -> dict[int, str]:
    """Return the documents' ids by the place of their first token in a window."""
    lengths = window.segment_lengths_S
    starts = (np.cumsum(lengths) - lengths).tolist()
    return dict(zip(starts, window.document_ids, strict=True))
