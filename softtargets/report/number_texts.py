"""Numbers and lists as short texts for people."""

from __future__ import annotations

import math
from collections.abc import Sequence


def bytes_text(num_bytes: float) -> str:
    """Return a size, in decimal units."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.1f} {unit}"
    return f"{num_bytes:,.0f} bytes"


def percent_text(share: float | None) -> str:
    """Return a probability in percent, as the page's script does; a dash for None."""
    if share is None:
        return "-"
    percent = 100 * share
    if 0 < percent < 0.01:
        return "<0.01%"
    if 99.995 <= percent < 100:
        return ">99.99%"
    return f"{percent:.{1 if 10 <= percent < 99.95 else 2}f}%"


def number_text(value: float) -> str:
    """Return a number with three digits that count, with an exponent where it is long."""
    if math.isinf(value):
        return "\u221e" if value > 0 else "-\u221e"
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.3g}"
    if 1e3 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def list_text(names: Sequence[str], most: int = 5) -> str:
    """Return names with commas between them, the first few if there are many."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
