"""Windows that occur again in a corpus: each is scored once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from softtargets.window import TokenWindow


def each_once(windows: Iterable[TokenWindow], counts: Counter[str]) -> Iterator[TokenWindow]:
    """Yield the windows that did not occur before, and count them, their tokens and the others."""
    return counted(without_repeats(windows, counts), counts)


def without_repeats(windows: Iterable[TokenWindow], counts: Counter[str]) -> Iterator[TokenWindow]:
    """Yield the windows that did not occur before, and count the others.

    It holds 98 bytes for each window. `staged_plan` finds the same ones in bounded memory.
    """
    seen: set[bytes] = set()
    for window in windows:
        key = bytes.fromhex(window.window_id)
        if key in seen:
            counts["repeated_windows"] += 1
            continue
        seen.add(key)
        yield window


def counted(windows: Iterable[TokenWindow], counts: Counter[str]) -> Iterator[TokenWindow]:
    """Yield windows, and count them and their tokens."""
    for window in windows:
        counts["windows"] += 1
        counts["tokens"] += len(window)
        yield window
