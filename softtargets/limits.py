"""Limits on what a file may ask for, checked before any memory is given to it.

A few kilobytes can declare, or unpack to, many gigabytes. Whoever really has such a file raises the
limit by an environment variable, which every command, worker and training process sees.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from softtargets.errors import InputError, LimitError

_GROWTH = 50
"""Times the size of files, up to which nothing else is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The largest number that is accepted of something."""

    variable: str
    """The environment variable that raises it, SOFTTARGETS_MAX_..."""
    default: int
    unit: str
    """What is counted, in the plural."""

    @property
    def value(self) -> int:
        """Return the limit in force.

        Raises:
            InputError: the environment variable is no positive whole number.
        """
        text = os.environ.get(self.variable)
        if text is None:
            return self.default
        if not (text.isascii() and text.isdecimal() and int(text[:19]) > 0):
            raise InputError(
                f"environment variable {self.variable}",
                expected=f"a positive whole number of {self.unit}",
                found=repr(text),
                next_step=f"Unset it for the default, {self.default:,}.",
            )
        return int(text[:19])

    def check(self, where: str, found: int) -> None:
        """Check that something is within the limit.

        Args:
            where: the file, and what in it.
            found: how much it asks for.

        Raises:
            LimitError: it asks for more.
        """
        if found > self.value:
            raise LimitError(
                where,
                expected=f"at most {self.value:,} {self.unit} ({self.variable} raises it)",
                found=f"{found:,}",
                next_step=f"If you trust the file, set {self.variable}={found} and run it again.",
            )

    def check_growth(self, where: str, file_bytes: int, num_bytes: int) -> None:
        """Check that files are within the limit when unpacked, if they grow very much.

        Packed text and numbers grow, bombs explode.

        Args:
            where: which files.
            file_bytes: their size.
            num_bytes: their content's.

        Raises:
            LimitError: they grow more than 50 times, to more than they are trusted with.
        """
        if num_bytes > file_bytes * _GROWTH:
            self.check(where, num_bytes)
