"""Several requests to a place at once, where each takes long because it is far away."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from softtargets.places.place import Place

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def answers(place: Place, ask: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
    """Yield what is answered about items, in their order; the place says how many are asked about.

    Args:
        place: whose `requests_at_once` says so. If it is one, no thread is begun.
        ask: called with an item, maybe in a thread. One call makes a request after another.
        items: taken one by one, in the caller's thread, so many before their answers at most.

    Raises:
        Exception: one that a call raised, when those before it are answered.
    """
    if place.requests_at_once == 1:
        yield from map(ask, items)
        return
    waiting = deque[Future[Answer]]()
    with ThreadPoolExecutor(place.requests_at_once, "softtargets-ask") as threads:
        for item in items:
            if len(waiting) == place.requests_at_once:
                yield waiting.popleft().result()
            waiting.append(threads.submit(ask, item))
        while waiting:
            yield waiting.popleft().result()
