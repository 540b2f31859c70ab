"""What is ours in a directory, by the names that we give, and how it is removed."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from softtargets.places.at_once import answers
from softtargets.places.place import Place

_log = logging.getLogger(__name__)
_MOST_NAMED = 10


def _nothing(_: str) -> None:
    """Let a file go whatever else is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """The files in some directories that may be ours. A pattern says which of them are.

    It matches the whole path of a file, and that of a directory with the slash after it.
    """

    place: Place
    directories: Sequence[str]
    """Those that we make, inner ones first; "" is the root."""

    def paths(self) -> Iterator[str]:
        """Yield what is in the directories, whosever it is."""
        for found in answers(self.place, self.place.list, self.directories):
            yield from found

    def others(self, own: re.Pattern[str]) -> list[str]:
        """Return what is not ours."""
        return [path for path in self.paths() if own.fullmatch(path) is None]

    def remove(
        self,
        own: re.Pattern[str],
        last: Sequence[str] = (),
        before: Callable[[str], str | None] = _nothing,
    ) -> list[str]:
        """Remove what is ours, of directories those that are empty then; return what is not ours.

        Args:
            own: says what is ours.
            last: what is removed at the end, in this order.
            before: names a file of ours that has to be gone before another is removed. It goes
                even if a listing that is old does not have it.

        Raises:
            StoreError: the system refused.
        """
        there = list(self.paths())
        found = [path for path in there if path not in last and own.fullmatch(path)]
        first = [other for path in found if (other := before(path)) is not None]
        self.place.delete_all(first)
        files = (path for path in found if not path.endswith("/"))
        self.place.delete_all(sorted(set(files).difference(first)))
        directories = [path for path in found if path.endswith("/")]
        for path in (*directories, *(path for path in last if own.fullmatch(path))):
            if path.endswith("/"):
                self.place.remove_directory(path[:-1])
            else:
                self.place.delete(path)
        return [path for path in there if own.fullmatch(path) is None]

    def remove_and_warn(
        self,
        own: re.Pattern[str],
        last: Sequence[str] = (),
        before: Callable[[str], str | None] = _nothing,
    ) -> None:
        """Remove what is ours, as `remove` does, and log what stays because it is not ours."""
        others = self.remove(own, last, before)
        if others:
            named = ", ".join(repr(path) for path in others[:_MOST_NAMED])
            _log.warning(
                "%s: %d entries were left in place, since softtargets did not write them: %s",
                self.place,
                len(others),
                named,
            )
