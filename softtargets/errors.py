"""One exception tree. A message says where, what was expected, what was found, what to do next.

Much of what messages say comes from files and clients of others. Every part of one is made safe
here: it is printable, no URL in it has credentials, and it is not longer than people read.
"""

from softtargets.texts import shortened, shown

_MOST_SHOWN = 2000
"""Characters of a part of a message."""


class SoftTargetsError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        where: the file, option or argument the error is about.
        expected: what would have been right.
        found: what was there instead.
        next_step: what the reader can do about it.
    """

    def __init__(
        self, where: str, *, expected: str = "", found: str = "", next_step: str = ""
    ) -> None:
        # torch's DataLoader raises a worker's error anew from its type and one text, a traceback.
        is_text = not expected
        self.where = "\n".join(map(shown, where.split("\n"))) if is_text else _part(where)
        self.expected = _part(expected)
        self.found = _part(found)
        self.next_step = _part(next_step)
        said = f"{self.where}: expected {self.expected}; found {self.found}. {self.next_step}"
        super().__init__(self.where if is_text else said)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries (DataLoader workers); keyword-only fields need help.
        return _rebuild, (type(self), self.where, self.expected, self.found, self.next_step)


def _part(text: str) -> str:
    return shortened(shown(text), _MOST_SHOWN)


def _rebuild(
    kind: type[SoftTargetsError], where: str, expected: str, found: str, next_step: str
) -> SoftTargetsError:
    return kind(where, expected=expected, found=found, next_step=next_step)


class InputError(SoftTargetsError, ValueError):
    """An argument is out of its range or does not fit the others."""


class TemperatureError(InputError):
    """A temperature is asked for that the store does not hold."""


class CorpusError(SoftTargetsError):
    """An input file is missing, unreadable or malformed."""


class TeacherError(SoftTargetsError):
    """A teacher cannot be loaded, or gives numbers that cannot be stored."""


class StoreError(SoftTargetsError):
    """A store cannot be opened, written or committed."""


class FormatError(StoreError):
    """A manifest or shard is of an unknown version or does not follow the format."""


class CorruptionError(StoreError):
    """Bytes on disk differ from what was committed."""


class LimitError(StoreError):
    """A file asks for more memory than it is trusted with; the message says how to allow it."""


class IdentityError(StoreError):
    """Two things that must have been made in the same way were not."""


class BusyError(StoreError):
    """Another process is building in this directory."""
