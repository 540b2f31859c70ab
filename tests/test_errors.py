"""Messages are safe to print, whatever they quote."""

from __future__ import annotations

import pickle

import pytest

from softtargets.errors import CorruptionError, LimitError, SoftTargetsError, StoreError

HOSTILE = "\x1b[31mred\x9b1m\u202e\r\n\udc80 s3://key:hunter22@bucket/a?token=hunter22"
SHOWN = "\\x1b[31mred\\x9b1m\\u202e\\r\\n\\udc80 s3://bucket/a"


@pytest.mark.parametrize("kind", [SoftTargetsError, CorruptionError, LimitError])
def test_every_part_is_made_safe(kind: type[SoftTargetsError]) -> None:
    error = kind(HOSTILE, expected=HOSTILE, found=HOSTILE, next_step=HOSTILE)
    assert {error.where, error.expected, error.found, error.next_step} == {SHOWN}
    assert str(error) == f"{SHOWN}: expected {SHOWN}; found {SHOWN}. {SHOWN}"


def test_a_part_has_an_end() -> None:
    error = StoreError("a", expected="b", found="x" * 10**6, next_step="c")
    assert len(str(error)) < 2100
    assert "xxx ... xxx" in str(error)


def test_nothing_is_escaped_twice() -> None:
    error = StoreError(HOSTILE, expected="\\x1b", found="x" * 10**6, next_step="d")
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))
    assert str(again) == str(error)
    assert again.__reduce__()[1] == error.__reduce__()[1]


def test_a_traceback_of_another_process_keeps_its_lines() -> None:
    text = f"Caught StoreError in worker 0.\nOriginal Traceback:\n  {'x' * 3000}\n\x1b[31m"
    assert str(StoreError(text)) == text.replace("\x1b", "\\x1b")
    assert str(StoreError(str(StoreError(text)))) == str(StoreError(text))


def test_what_the_system_refuses_is_told_as_what_failed() -> None:
    error = StoreError("a/b", failed="cannot be read", found="Permission denied", next_step="Ask.")
    assert str(error) == "a/b: cannot be read: Permission denied. Ask."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    # Whoever makes another message of its parts has both.
    assert (error.expected, error.found) == ("no error of the system", "Permission denied")
