"""How much files may grow when they are unpacked: packed text and numbers grow, bombs explode."""

from __future__ import annotations

from softtargets.limits import Limit

_GROWTH = 50
"""Times the size of the files, up to which nothing else is asked."""


def check_growth(limit: Limit, where: str, file_bytes: int, num_bytes: int) -> None:
    """Check how large files become when they are unpacked.

    Args:
        limit: for those that grow more than 50 times.
        where: which files.
        file_bytes: their size.
        num_bytes: their content's.

    Raises:
        LimitError: they grow to more than they are trusted with.
    """
    if num_bytes > file_bytes * _GROWTH:
        limit.check(where, num_bytes)
