"""One exception tree. A message says where, what was expected, what was found, what to do next.

What the system refuses is no value that could have been another: the message then says what could
not be done, and the system's reason.

Much of what messages say comes from files and clients of others. Every part of one is made safe
here: it is printable, no URL in it has credentials, and it is not longer than people read.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

from softtargets.texts import shortened, shown

Restated = TypeVar("Restated", bound="SoftTargetsError")

RESTORE = "Restore the file from a copy, or build the store again."
"""What to do about a file that is damaged."""

_MOST_SHOWN = 2000
"""Characters of a part of a message."""
_EXPECTED_OF_SYSTEM = "no error of the system"


class SoftTargetsError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        where: the file, option or argument the error is about.
        expected: what would have been right.
        found: what was there instead.
        next_step: what the reader can do about it; by default the `advice` of the class.
        failed: what could not be done, such as "cannot be read", when the system is why; `found` is
            then what the system says.
    """

    advice: ClassVar[str] = ""

    def __init__(
        self,
        where: str,
        *,
        expected: str = "",
        found: str = "",
        next_step: str = "",
        failed: str = "",
    ) -> None:
        # torch's DataLoader raises a worker's error anew from its type and one text, a traceback.
        is_text = not expected and not failed
        self.where = "\n".join(map(shown, where.split("\n"))) if is_text else _part(where)
        self.expected = _part(expected or (_EXPECTED_OF_SYSTEM if failed else ""))
        self.found = _part(found)
        self.next_step = _part(next_step or ("" if is_text else self.advice))
        self.failed = _part(failed)
        what = f"expected {self.expected}; found {self.found}"
        if failed:
            what = f"{self.failed}: {self.found}"
        said = f"{self.where}: {what}. {self.next_step}"
        super().__init__(self.where if is_text else said)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries (DataLoader workers); keyword-only fields need help.
        return _rebuild, (type(self), self.where, self._said)

    @property
    def _said(self) -> dict[str, str]:
        names = ("expected", "found", "next_step", "failed")
        return {name: getattr(self, name) for name in names}

    def restated(self, kind: type[Restated], where: str = "", *, next_step: str = "") -> Restated:
        """Return an error of another kind that says the same, but for what is named here."""
        said = self._said | ({"next_step": next_step} if next_step else {})
        return _rebuild(kind, where or self.where, said)


def _part(text: str) -> str:
    return shortened(shown(text), _MOST_SHOWN)


def _rebuild(kind: type[Restated], where: str, said: dict[str, str]) -> Restated:
    return kind(where, **said)


def error_text(error: BaseException) -> str:
    """Return the first line an error of the system says, without the path; its type if silent."""
    said = str(getattr(error, "strerror", None) or error)
    return said.splitlines()[0] if said else type(error).__name__


class InputError(SoftTargetsError, ValueError):
    """An argument is out of its range or does not fit the others."""


class TemperatureError(InputError):
    """A temperature is asked for that the store does not hold."""


class CorpusError(SoftTargetsError):
    """An input file is missing, unreadable or malformed."""


class TeacherError(SoftTargetsError):
    """A teacher cannot be loaded, or gives numbers that cannot be stored."""


class ServerError(TeacherError):
    """The server or the engine of a teacher is gone, or another one: no unit can be scored."""


class StoreError(SoftTargetsError):
    """A store cannot be opened, written or committed."""


class FormatError(StoreError):
    """A manifest or shard is of an unknown version or does not follow the format."""

    advice = RESTORE


class CorruptionError(StoreError):
    """Bytes on disk differ from what was committed."""

    advice = RESTORE


class LimitError(StoreError):
    """A file asks for more memory than it is trusted with; the message says how to allow it."""


class IdentityError(StoreError):
    """Two things that must have been made in the same way were not."""


class BusyError(StoreError):
    """Another process is building in this directory."""
