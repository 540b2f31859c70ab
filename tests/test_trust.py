"""The page about trust names every limit, as it is."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import softtargets
from softtargets.limits import Limit

PAGE = Path(__file__).parent.parent / "docs" / "trust.md"


def limits() -> dict[str, Limit]:
    found: dict[str, Limit] = {}
    for module in pkgutil.walk_packages(softtargets.__path__, "softtargets."):
        if not module.name.startswith(("softtargets.train.", "softtargets.__main__")):
            own = vars(importlib.import_module(module.name)).values()
            found |= {one.variable: one for one in own if isinstance(one, Limit)}
    return found


def test_every_limit_is_on_the_page_with_its_default() -> None:
    rows = re.findall(r"^\| `(SOFTTARGETS_\w+)` \| ([\d,]+) \|", PAGE.read_text(), re.MULTILINE)
    assert dict(rows) == {name: f"{limit.default:,}" for name, limit in limits().items()}
