"""Looks at a report on a phone, which it must not be wider than."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.report.chromium import PHONE, open_browser, outside


def main(page: Path) -> None:
    with open_browser() as browser:
        if browser is None:
            sys.exit("no browser: apt-get install chromium, or playwright install chromium")
        shown = browser.new_page(viewport={"width": PHONE[0], "height": PHONE[1]})
        shown.goto(page.resolve().as_uri())
        found = outside(shown)
        shown.screenshot(path=page.with_suffix(".png"), full_page=True)
    if found:
        sys.exit(f"wider than {PHONE[0]} px: {found[:3]}")
