"""Units with their windows: a thread reads those of the next while the teacher reads the last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

Content = TypeVar("Content")


class UnitsAhead(Generic[Content]):
    """Yields units and what is read of each; the next one may be asked for early.

    Units are asked for in the thread of the caller, one before it is due at most.

    Args:
        units: asked for one by one.
        read: called with a unit, in a thread.
    """

    def __init__(self, units: Iterable[int], read: Callable[[int], Content]) -> None:
        self._units = iter(units)
        self._read = read
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="softtargets-read")
        self._next: tuple[int, Future[Content]] | None = None
        self._has_ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()

    def look(self) -> None:
        """Ask for the next unit, and begin to read it, unless that was done before."""
        if self._next is not None or self._has_ended:
            return
        unit = next(self._units, None)
        if unit is None:
            self._has_ended = True
        else:
            self._next = unit, self._thread.submit(self._read, unit)

    def __iter__(self) -> Iterator[tuple[int, Content]]:
        """Yield every unit.

        Raises:
            Exception: one that reading the unit raised which is due.
        """
        while True:
            self.look()
            if self._next is None:
                return
            (unit, content), self._next = self._next, None
            yield unit, arrived(content)


def arrived(content: Future[Content]) -> Content:
    """Return what was read of a unit when it is there, or raise what reading it raised."""
    return content.result()
