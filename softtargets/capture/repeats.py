"""Windows that occur again in a corpus: each is scored once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from softtargets.window import TokenWindow


def each_once(windows: Iterable[TokenWindow], counts: Counter[str]) -> Iterator[TokenWindow]:
    """Yield the windows that did not occur before, and count them, their tokens and the others."""
    seen: set[bytes] = set()
    for window in windows:
        key = bytes.fromhex(window.window_id)
        if key in seen:
            counts["repeated_windows"] += 1
            continue
        seen.add(key)
        counts["windows"] += 1
        counts["tokens"] += len(window)
        yield window
