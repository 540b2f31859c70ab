"""A process that carries out attacks: to fork pytest's own takes several times as long.

Every page of memory that a process has costs its fork something, and pytest's own has the most.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from tests.attacks.attack import carry_out
from tests.attacks.every import ATTACKS
from tests.processes import CONTEXT


class Attacker:
    """The process, as seen from outside."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def carry_out(self, number: int, directory: Path) -> tuple[str, str]:
        """Carry out an attack of `ATTACKS` in an empty directory.

        Returns:
            The harm it did, and the end of what was printed.

        Raises:
            RuntimeError: its input could not be made.
        """
        self._connection.send((number, directory))
        found = self._connection.recv()
        if isinstance(found, RuntimeError):
            raise found
        harm, printed = found
        return harm, printed


@contextmanager
def attacker() -> Iterator[Attacker]:
    """Start the process; it ends with what is within."""
    here, there = CONTEXT.Pipe()
    # No daemon, as those may not start processes, and what is attacked does.
    process = CONTEXT.Process(target=_carry_out_all, args=(there,))
    process.start()
    there.close()
    try:
        yield Attacker(here)
    finally:
        here.close()
        process.join()


def _carry_out_all(connection: Connection) -> None:
    """Carry out what is asked for until nobody asks any more."""
    while True:
        try:
            number, directory = connection.recv()
        except EOFError:
            return
        try:
            outcome, harm = carry_out(ATTACKS[number], directory)
        except RuntimeError as error:
            connection.send(error)
        else:
            connection.send((harm, outcome.output[-4000:]))
