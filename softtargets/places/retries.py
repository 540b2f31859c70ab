"""Trying again what can be wrong for a moment.

An error of the server, a connection that breaks, bytes that are not those of the manifest: each is
tried again, waiting longer each time, and at random so that the readers of a cluster don't come
back together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    RetryCallState,
    RetryError,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_all,
    stop_before_delay,
    wait_random_exponential,
)

from softtargets.errors import SoftTargetsError

ATTEMPTS = 8
"""Of every read."""
MOST_SECONDS = 60.0
"""No attempt begins later than this after the first, but for the least number of attempts."""
FIRST_WAIT, LONGEST_WAIT = 0.25, 10.0
"""Seconds: before the second attempt up to the first of the two, then twice as long each time."""

_FINAL = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    NotImplementedError,
    TypeError,
    ValueError,
)
"""What a second attempt does not mend; clients raise errors of many other types."""

Content = TypeVar("Content")


class WrongBytesError(Exception):
    """Something else arrived than what was written."""

    def __init__(self, content: bytes) -> None:
        super().__init__(f"{len(content):,} bytes with another checksum")
        self.content = content


class GaveUpError(Exception):
    """The attempts are used up, or another is of no use."""

    def __init__(self, cause: BaseException, num_attempts: int) -> None:
        super().__init__(cause, num_attempts)
        self.cause = cause
        self.num_attempts = num_attempts


def keep_trying(
    read: Callable[[], Content], between: Callable[[], None], *, least: int = 1
) -> Content:
    """Return what `read` returns at last, calling `between` before every attempt but the first.

    Args:
        read: what is tried.
        between: called before another attempt.
        least: attempts that are made however long they take.

    Raises:
        FileNotFoundError: there is no file.
        WrongBytesError: something else arrived each time.
        SoftTargetsError: that `read` raised.
        GaveUpError: anything else that it raised.
    """

    def before_retry(_: RetryCallState) -> None:
        between()

    attempts = Retrying(
        stop=stop_after_attempt(ATTEMPTS)
        | stop_all(stop_before_delay(MOST_SECONDS), stop_after_attempt(least)),
        wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
        retry=retry_if_exception(_may_pass),
        before_sleep=before_retry,
    )
    try:
        return attempts(read)
    except RetryError as error:
        cause = error.last_attempt.exception()
        assert cause is not None
        if isinstance(cause, WrongBytesError):
            raise cause from None
        raise GaveUpError(cause, error.last_attempt.attempt_number) from None
    except (FileNotFoundError, SoftTargetsError):
        raise
    # A broken client raises errors of any type.
    except Exception as error:  # noqa: BLE001
        raise GaveUpError(error, 1) from None


def _may_pass(error: BaseException) -> bool:
    """Return whether what a client raised may be otherwise at another attempt."""
    return isinstance(error, Exception) and not isinstance(error, (SoftTargetsError, *_FINAL))
