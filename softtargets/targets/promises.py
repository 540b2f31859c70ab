"""Promises: what is to hold, in words, and whether it does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from softtargets.errors import InputError
from softtargets.targets.arrays import Bool


class Promise(NamedTuple):
    """Something that is to hold as a whole, or at each of T positions."""

    words: str
    holds: bool | np.bool_ | Bool
    found: str = "others"
    """What is there instead, if that is not simply counted in positions."""


Promises = Iterator[Promise]


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A promise that does not hold."""

    expected: str
    found: str
    position: int | None
    """The first where it does not; None for a promise about the whole."""


def broken(promises: Iterable[Promise]) -> Iterator[Broken]:
    """Yield the promises that do not hold."""
    for words, holds, found in promises:
        if isinstance(holds, np.ndarray):
            if not holds.all():
                count = f"{int((~holds).sum())} of {len(holds)} positions without"
                yield Broken(expected=words, found=count, position=int(holds.argmin()))
        elif not holds:
            yield Broken(expected=words, found=found, position=None)


def check(promises: Iterable[Promise], where: str, *, next_step: str) -> None:
    """Check that all promises hold.

    Raises:
        InputError: one does not; the message names the first.
    """
    for one in broken(promises):
        at = "" if one.position is None else f", position {one.position}"
        raise InputError(
            f"{where}{at}", expected=one.expected, found=one.found, next_step=next_step
        )
