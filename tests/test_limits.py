"""A limit names itself, and can be raised."""

from __future__ import annotations

import re

import pytest

from softtargets.errors import InputError, LimitError
from softtargets.limits import Limit

LIMIT = Limit(variable="SOFTTARGETS_MAX_TEST_BYTES", default=1000, unit="bytes")


def test_what_is_within_the_limit_passes() -> None:
    LIMIT.check("a file", 1000)


def test_the_message_names_the_variable_that_raises_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(
        LimitError, match=r"at most 1,000 bytes \(SOFTTARGETS_\w+ raises it\); found 1,001"
    ) as caught:
        LIMIT.check("a file", 1001)
    name, value = re.findall(r"set (\w+)=(\d+) ", str(caught.value))[0]
    monkeypatch.setenv(name, value)
    LIMIT.check("a file", 1001)
    with pytest.raises(LimitError):
        LIMIT.check("a file", 1002)


@pytest.mark.parametrize("text", ["", "0", "-1", "1e9", "many", "\u0661"])
def test_a_variable_that_is_no_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(LIMIT.variable, text)
    with pytest.raises(InputError, match=LIMIT.variable):
        LIMIT.check("a file", 1)
