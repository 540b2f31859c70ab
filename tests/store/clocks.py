"""A clock that a test moves."""

from __future__ import annotations


class Clock:
    """The observer's own clock, which the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
