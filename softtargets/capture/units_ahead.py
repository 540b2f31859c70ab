"""Units with their windows: a thread has the next one while the teacher reads the last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

Content = TypeVar("Content")


class UnitsAhead(Generic[Content]):
    """Yields units and what is read of each; the next one may be asked for early.

    Args:
        units: asked for one by one, by the caller's thread or by another, never by two at once.
        read: called with a unit, by the same thread.
    """

    def __init__(self, units: Iterable[int], read: Callable[[int], Content]) -> None:
        self._units = iter(units)
        self._read = read
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="softtargets-read")
        self._next: Future[tuple[int, Content] | None] | None = None

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
        """Have a thread ask for the next unit, and read it, unless it does so already."""
        if self._next is None:
            self._next = self._thread.submit(self._take)

    def due(self) -> tuple[int, Content] | None:
        """Return the next unit and what was read of it, as soon as it is there; None at the end.

        Raises:
            Exception: one that asking for it, or reading it, raised.
        """
        asked, self._next = self._next, None
        # A worker waits here for what it is given, and another thread would outlive it.
        return self._take() if asked is None else asked.result()

    def __iter__(self) -> Iterator[tuple[int, Content]]:
        """Yield every unit when it is `due`."""
        while (found := self.due()) is not None:
            yield found

    def _take(self) -> tuple[int, Content] | None:
        unit = next(self._units, None)
        return None if unit is None else (unit, self._read(unit))
