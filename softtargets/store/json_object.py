"""A JSON object of a file that someone else may have written, read in one way only.

Python's own reader takes more than JSON and leaves some of it for later: NaN, numbers that become
infinite, a key that stands twice, halves of characters that cannot be written, and as many levels
as its stack holds.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn

from softtargets.errors import FormatError
from softtargets.texts import shortened

MOST_LEVELS = 200
"""Of objects and lists within each other; what else handles them has a stack, too."""


def parse_object(content: bytes | str, where: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        FormatError: the content is something else, or can be read in several ways.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        data = _DECODER.decode(text)
        _check_levels(data)
        # Halves of characters come as escapes alone: UTF-8 has none.
        if "\\ud" in text or "\\uD" in text:
            json.dumps(data, ensure_ascii=False).encode()
    except RecursionError as error:
        raise _not_an_object(where, f"more than {MOST_LEVELS} levels of it") from error
    except ValueError as error:
        raise _not_an_object(where, str(error)) from error
    if not isinstance(data, dict):
        raise _not_an_object(where, type(data).__name__)
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"the key {twice!r} twice in an object")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant}, which is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{shortened(text, 50)}, which no float64 holds")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)


_NESTING = frozenset({dict, list})
"""The types that the decoder makes of what has levels."""


def _check_levels(data: object) -> None:
    level: list[Any] = [[data]]
    # Millions may stand side by side, so nothing is called for each.
    for _ in range(MOST_LEVELS + 1):
        level = [
            child
            for one in level
            for child in (one.values() if type(one) is dict else one)
            if type(child) in _NESTING
        ]
        if not level:
            return
    raise RecursionError


def _not_an_object(where: str, found: str) -> FormatError:
    return FormatError(where, expected="a JSON object", found=shortened(found))
