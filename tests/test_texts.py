"""Foreign text is shown, not obeyed."""

from __future__ import annotations

import pytest

from softtargets.texts import plural, printable, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, /path/to.parquet", "plain text, /path/to.parquet"),
        ("caf\u00e9 \u4e2d\u6587 \u05e9 \U0001f600", "caf\u00e9 \u4e2d\u6587 \u05e9 \U0001f600"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\rb\nc\td", "a\\rb\\nc\\td"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("\udc80", "\\udc80"),
        ("a\u00a0b\u2028c", "a\\xa0b\\u2028c"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_long_text_keeps_both_ends() -> None:
    text = "a" * 300 + "b" * 300
    found = shortened(text)
    assert len(found) <= 400
    assert found.startswith("aaa")
    assert found.endswith("bbb")
    assert shortened("a" * 400) == "a" * 400


def test_one_of_something_is_no_plural() -> None:
    assert [plural(number, "shard") for number in (0, 1, 2000)] == [
        "0 shards", "1 shard", "2,000 shards",
    ]  # fmt: skip
    assert plural(2, "window without targets", "windows without targets") == (
        "2 windows without targets"
    )
