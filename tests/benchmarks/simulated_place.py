"""An object store in memory whose requests take simulated time, and are counted."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from softtargets.places.place import Place

LISTED = 1000
"""Names that a request lists, or removes, at most: S3's limit."""
PRICES = {"PUT": 5e-6, "LIST": 5e-6, "GET": 4e-7, "HEAD": 4e-7, "DELETE": 0.0}
"""US dollars a request, of S3's standard class in us-east-1 (aws.amazon.com/s3/pricing, 2026)."""


class Clock:
    """Simulated seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def monotonic(self) -> float:
        """Return what it shows."""
        return self.now

    @contextmanager
    def at(self, time: float) -> Iterator[None]:
        """Be at another time: that of another process."""
        own, self.now = self.now, time
        try:
            yield
        finally:
            self.now = own


class SimulatedPlace(Place):
    """A bucket.

    Args:
        clock: goes on with each request.
        latency: of a request, in seconds.
    """

    def __init__(self, clock: Clock, latency: float) -> None:
        self.clock, self.latency = clock, latency
        self.requests = Counter[str]()
        self.is_unreachable = False
        """Whether whoever asks is dead: nothing it does counts."""
        self._directories: defaultdict[str, dict[str, tuple[bytes, int]]] = defaultdict(dict)
        self._version = 0

    def __str__(self) -> str:
        return "simulation"

    def held_bytes(self) -> int:
        """Return about how much memory the files take here; equal ones may share it."""
        contents = {}
        num_bytes = 0
        for files in self._directories.values():
            num_bytes += sys.getsizeof(files)
            for name, file in files.items():
                num_bytes += sys.getsizeof(name) + sys.getsizeof(file) + sys.getsizeof(file[1])
                contents[id(file[0])] = sys.getsizeof(file[0])
        return num_bytes + sum(contents.values())

    def has_conditional_puts(self) -> bool:
        return True

    def check_writable(self) -> None:
        pass

    def size(self, path: str) -> int | None:
        found = self._ask("HEAD", path)
        return None if found is None else len(found[0])

    def get(self, path: str, sha256: str | None = None) -> bytes | None:
        found = self._ask("GET", path)
        return None if found is None else found[0]

    def get_tagged(self, path: str) -> tuple[bytes, str] | None:
        found = self._ask("GET", path)
        return None if found is None else (found[0], str(found[1]))

    def list(self, directory: str) -> list[str]:
        return sorted(self.sizes(directory))

    def sizes(self, directory: str) -> dict[str, int]:
        start = f"{directory}/".lstrip("/")
        files = self._directories.get(directory, {})
        below = {
            f"{start}{other.removeprefix(start).split('/')[0]}/": 0
            for other, own in self._directories.items()
            if own and other != directory and other.startswith(start)
        }
        self._count("LIST", max(1, -(-(len(files) + len(below)) // LISTED)))
        return below | {f"{start}{name}": len(content) for name, (content, _) in files.items()}

    def put(self, path: str, content: bytes) -> None:
        self._ask("PUT", path)
        self._write(path, content)

    def put_if_absent(self, path: str, content: bytes) -> bool:
        is_new = self._ask("PUT", path) is None
        if is_new:
            self._write(path, content)
        return is_new

    def put_if_match(self, path: str, content: bytes, tag: str) -> bool:
        found = self._ask("PUT", path)
        is_same = found is not None and str(found[1]) == tag
        if is_same:
            self._write(path, content)
        return is_same

    def delete(self, path: str) -> None:
        self._count("DELETE")
        self._remove(path)

    def delete_all(self, paths: Sequence[str]) -> None:
        self._count("DELETE", -(-len(paths) // LISTED))
        for path in paths:
            self._remove(path)

    def _ask(self, kind: str, path: str) -> tuple[bytes, int] | None:
        self._count(kind)
        directory, _, name = path.rpartition("/")
        return self._directories.get(directory, {}).get(name)

    def _count(self, kind: str, number: int = 1) -> None:
        self.requests[kind] += number
        self.clock.sleep(self.latency * number)

    def _write(self, path: str, content: bytes) -> None:
        if self.is_unreachable:
            return
        directory, _, name = path.rpartition("/")
        self._version += 1
        self._directories[directory][name] = content, self._version

    def _remove(self, path: str) -> None:
        directory, _, name = path.rpartition("/")
        if not self.is_unreachable:
            self._directories.get(directory, {}).pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("it stays in its process")
