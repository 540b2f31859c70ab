"""Waiting for other processes, and saying so: for whom, since when, and how to go on.

A process that is stopped, or hangs, keeps what it holds. Whoever waits for it in silence waits for
ever without knowing why.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from socket import gethostname
from threading import Event, Thread

FIRST_SECONDS = 5.0
"""Until it is said first; then ever twice as long."""
LONGEST_SECONDS = 600.0

_log = logging.getLogger(__name__)
_HOLDER = re.compile(r"process (\d+) on (\S+)")


class Waiting:
    """Tells whom a process waits for: after some seconds, then ever more seldom.

    Args:
        where: the directory it is about.
        what: is waited for.
        holder: returns who holds it, as `this_process` told of itself.
    """

    def __init__(self, where: str, what: str, holder: Callable[[], str]) -> None:
        self._where, self._what, self._holder = where, what, holder
        self._started = datetime.now(UTC)
        self._interval = FIRST_SECONDS
        self._due = time.monotonic() + self._interval

    def tell(self) -> None:
        """Log a warning if it is time for one."""
        if time.monotonic() < self._due:
            return
        self._interval = min(2 * self._interval, LONGEST_SECONDS)
        self._due = time.monotonic() + self._interval
        holder = self._holder()
        _log.warning(
            "%s: waiting since %s for %s, held by %s. %s",
            self._where,
            _time_text(self._started),
            self._what,
            described(holder),
            way_on(holder),
        )

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell from a thread, while this one waits."""
        is_over = Event()

        def tell() -> None:
            while not is_over.wait(max(0.0, self._due - time.monotonic())):
                self.tell()

        thread = Thread(target=tell, name="softtargets-waiting", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def process_text(process_id: int) -> str:
    """Return what a process of this machine is called."""
    return f"process {process_id} on {gethostname()}"


def this_process() -> str:
    """Return what a process writes into the files that it holds locks on."""
    return f"{process_text(os.getpid())} since {_time_text(datetime.now(UTC))}"


def described(holder: str) -> str:
    """Return who holds something, and whether that process is stopped, as far as it is known."""
    return f"{holder or 'a process that just started'}{', which is stopped' * is_stopped(holder)}"


def way_on(holder: str) -> str:
    """Return what to do about a process that keeps others waiting."""
    found = _HOLDER.match(holder)
    if found is None:
        return "It goes on when that one is done."
    process_id, host = found.groups()
    at = "" if host == gethostname() else f" on {host}"
    if is_stopped(holder):
        return (
            f"To let it go on, run 'kill -CONT {process_id}'{at}; to go on without it, "
            f"'kill -9 {process_id}': what it had not finished is done again."
        )
    return (
        f"It goes on when that one is done. If it hangs, run 'kill -9 {process_id}'{at}: what it "
        "had not finished is done again."
    )


def is_stopped(holder: str) -> bool:
    """Return whether a process of this machine is stopped; False where the system does not say."""
    found = _HOLDER.match(holder)
    if found is None or found[2] != gethostname():
        return False
    try:
        status = Path(f"/proc/{found[1]}/stat").read_text()
    except OSError:  # It ended, or this is no Linux.
        return False
    return status.rpartition(")")[2].split()[0] in ("T", "t")


def _time_text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
