"""What is ours in a directory, by the names that we give, and how it is removed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from softtargets.store.tree import Tree

_log = logging.getLogger(__name__)
_MOST_NAMED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """The files in some directories that may be ours. A pattern says which of them are.

    It matches the whole path of a file, and that of a directory with a slash after it.
    """

    tree: Tree
    directories: Sequence[str]
    """Those that we make, inner ones first; "" is the root."""

    def paths(self) -> Iterator[str]:
        """Yield what is in the directories, whosever it is."""
        for directory in self.directories:
            for name in self.tree.names(directory):
                yield f"{directory}/{name}" if directory else name

    def others(self, own: re.Pattern[str]) -> list[str]:
        """Return what is not ours."""
        return [path for path in self.paths() if not self._is_own(own, path)]

    def remove(self, own: re.Pattern[str], last: Sequence[str] = ()) -> None:
        """Remove what is ours; of directories those that are empty then.

        Args:
            own: says what is ours.
            last: what is removed at the end, in this order.

        Raises:
            StoreError: the system refused.
        """
        found = [path for path in self.paths() if path not in last]
        for path in (*found, *last):
            if self._is_own(own, path):
                self.tree.remove(path)

    def warn_of_others(self, own: re.Pattern[str]) -> None:
        """Log what stays because it is not ours."""
        others = self.others(own)
        if others:
            named = ", ".join(repr(path) for path in others[:_MOST_NAMED])
            _log.warning(
                "%s: %d entries were left in place, since softtargets did not write them: %s",
                self.tree.root,
                len(others),
                named,
            )

    def _is_own(self, own: re.Pattern[str], path: str) -> bool:
        ending = "/" if self.tree.is_directory(path) else ""
        return own.fullmatch(path + ending) is not None
