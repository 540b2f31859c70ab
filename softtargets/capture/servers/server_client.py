"""The HTTP client of a server: bounded in requests, time and bytes, and patient with failures.

Connections are kept alive, one for each request at a time. What may pass is tried again, waiting
longer each time and at random: no connection, one that breaks, no answer in time, a server that is
busy or starting.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from functools import cache
from importlib.util import find_spec
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

from tenacity import (
    RetryCallState,
    RetryError,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_delay,
    wait_random_exponential,
)

from softtargets.errors import InputError, ServerError, TeacherError, error_text
from softtargets.limits import Limit
from softtargets.texts import shortened
from softtargets.urls import Secrets, redacted

if TYPE_CHECKING:
    import httpx

KEY = "SOFTTARGETS_API_KEY"
"""The environment variable with the key of a server that asks for one."""
ANSWER_BYTES = Limit(variable="SOFTTARGETS_MAX_ANSWER_BYTES", default=1 << 30, unit="bytes")
"""Of one answer. 1,024 tokens with 128 entries each took 12 MB."""
FIRST_WAIT, LONGEST_WAIT = 0.25, 15.0
"""Seconds: before the second attempt up to the first of the two, then twice as long each time."""
STARTING_SECONDS = 5
"""For which a server is waited for that has not answered yet."""
_CONNECTING_SECONDS = 10
_BUSY = (408, 425, 429, 502, 503, 504)
_FAULT = 500
_MOST_FAULTS = 4
"""Attempts of a request that a server fails at; another one may do."""


class NotAnsweredError(Exception):
    """An attempt failed, and another may not."""

    def __init__(self, found: str, *, is_fault: bool = False) -> None:
        super().__init__(found)
        self.is_fault = is_fault


class RefusedError(TeacherError):
    """A server refuses a request; it would again."""


class _GivesUp(stop_after_delay):
    """Ends attempts after some seconds, when the client is stopped, or the server fails often."""

    def __init__(self, seconds: float, stopped: threading.Event) -> None:
        super().__init__(seconds)
        self._stopped = stopped

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Return whether there is no other attempt."""
        outcome = retry_state.outcome
        error = None if outcome is None else outcome.exception()
        is_fault = isinstance(error, NotAnsweredError) and error.is_fault
        too_often = is_fault and retry_state.attempt_number >= _MOST_FAULTS
        return self._stopped.is_set() or too_often or super().__call__(retry_state)


class ServerClient:
    """Asks one server. Threads may share it, processes may not.

    Args:
        url: of the server, maybe with a user and a password.
        num_requests: most at a time.
        seconds: within which an answer must come, however often the server is asked.

    Raises:
        InputError: httpx is not installed, or an argument is out of range.
    """

    def __init__(self, url: str, num_requests: int, seconds: int) -> None:
        _check_positive("--requests", num_requests)
        _check_positive("--patience", seconds)
        _check_installed(url)
        import httpx

        self.url = redacted(url).rstrip("/")
        """For messages, without credentials."""
        self.num_requests = num_requests
        self._seconds = seconds
        self._secrets = Secrets(url)
        self._stopped = threading.Event()
        self._is_known = False
        key = os.environ.get(KEY)
        try:
            self._client = httpx.Client(
                base_url=url.rstrip("/").removesuffix("/v1"),
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(seconds, connect=min(seconds, _CONNECTING_SECONDS)),
                limits=httpx.Limits(
                    max_connections=num_requests,
                    max_keepalive_connections=num_requests,
                ),
                verify=_tls_context(),
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise InputError(
                f"--teacher {self.url}",
                expected="the URL of a server, as http://host:port",
                found=self._secrets.said(error),
                next_step="Correct the URL.",
            ) from self._secrets.cause(error)

        weakref.finalize(self, self._client.close)

    def has_answered(self) -> None:
        """From now on, wait long for the server where it falls silent: it is known to be one."""
        self._is_known = True

    def stop(self) -> None:
        """End all requests, in any thread; none can be made any more."""
        self._stopped.set()
        self._client.close()

    def find(self, path: str) -> dict[str, Any] | None:
        """Return the JSON object at a path, or None where the server has none.

        Raises:
            ServerError: the server does not answer.
            RefusedError: it wants a key.
        """
        try:
            found = self._answer("GET", path, None)
        except RefusedError as error:
            if error.found.startswith(("401", "403")):
                raise
            return None
        try:
            answer = json.loads(found)
        except ValueError:
            return None
        return answer if isinstance(answer, dict) else None

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON object that a server answers to one.

        Raises:
            ServerError: the server does not answer any more.
            TeacherError: it refuses the request, fails at it, or answers something else.
        """
        content = self._answer("POST", path, body)
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self.wrong("JSON", f"{_start(content)} ({error_text(error)})") from None
        if not isinstance(answer, dict):
            raise self.wrong("a JSON object", f"a {type(answer).__name__}")
        return answer

    def wrong(self, expected: str, found: str) -> TeacherError:
        """Return the error of an answer that is none."""
        return TeacherError(
            f"answer of {self.url}",
            expected=expected,
            found=found,
            next_step="Check that the URL is that of the server itself, and that the server is a "
            "version which docs/servers.md names.",
        )

    def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> bytes:
        seconds = self._seconds if self._is_known else min(self._seconds, STARTING_SECONDS)
        attempts = Retrying(
            stop=_GivesUp(seconds, self._stopped),
            wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
            retry=retry_if_exception_type(NotAnsweredError),
            sleep=sleep_using_event(self._stopped),
        )
        try:
            content: bytes = attempts(self._attempt, method, path, body)
        except RetryError as error:
            cause = error.last_attempt.exception()
            assert isinstance(cause, NotAnsweredError)
            raise self._given_up(cause, error.last_attempt.attempt_number) from None
        return content

    def _attempt(self, method: str, path: str, body: dict[str, Any] | None) -> bytes:
        import httpx

        try:
            with self._client.stream(method, path, json=body) as response:
                content = self._read(response)
        # A client that was stopped raises RuntimeError.
        except (httpx.TransportError, httpx.DecodingError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not self._stopped.is_set():
                raise
            raise NotAnsweredError(self._secrets.said(error)) from None
        status = response.status_code
        if status == httpx.codes.OK:
            return content
        said = f"{status} {response.reason_phrase}: {_start(content)}"
        if status in _BUSY or status == _FAULT:
            raise NotAnsweredError(said, is_fault=status == _FAULT)
        raise RefusedError(
            f"{self.url}{path}",
            expected="an answer",
            found=self._secrets.hide(said),
            next_step=f"Mend what the server says. A key goes into {KEY}.",
        )

    def _read(self, response: httpx.Response) -> bytes:
        content = bytearray()
        for part in response.iter_bytes():
            content += part
            ANSWER_BYTES.check(f"answer of {self.url}", len(content))
        return bytes(content)

    def _given_up(self, cause: NotAnsweredError, num_attempts: int) -> TeacherError:
        found = f"{self._secrets.hide(str(cause))} ({num_attempts} attempts)"
        if cause.is_fault:
            return TeacherError(
                f"answer of {self.url}",
                expected="an answer",
                found=found,
                next_step="See the server's log.",
            )
        return ServerError(
            self.url,
            expected="a server that answers",
            found=found,
            next_step="Start it, and run the same command again. What is committed stays.",
        )


def _start(content: bytes) -> str:
    """Return the beginning of an answer, for a message."""
    text = content[:1000].decode(errors="replace")
    return shortened(" ".join(text.split()), 200) or "nothing"


@cache
def _tls_context() -> SSLContext:
    """Return the context of all clients: reading the certificates takes 25 ms."""
    import httpx

    return httpx.create_ssl_context()


def _check_positive(option: str, value: int) -> None:
    if value < 1:
        raise InputError(
            option,
            expected="a positive number",
            found=str(value),
            next_step="Omit it for the default.",
        )


def _check_installed(url: str) -> None:
    if find_spec("httpx") is None:
        raise InputError(
            f"--teacher {redacted(url)}",
            expected="the package httpx, which asks servers",
            found="it not installed",
            next_step="Run: pip install 'softtargets[servers]'",
        )
