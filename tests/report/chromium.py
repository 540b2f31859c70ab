"""A browser for the tests that look at reports, and what they look for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

PHONE = (390, 844)

_OUTSIDE = """all => all.filter(one => one.checkVisibility())
    .filter(one => one.getBoundingClientRect().right > innerWidth + 0.5
        || (one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0
            && getComputedStyle(one).display !== "inline"
            && !one.classList.contains("choice")))
    .map(one => one.outerHTML.slice(0, 120))"""


@contextmanager
def open_browser() -> Iterator[Browser | None]:
    """Yield Debian's Chromium or Playwright's own, without a network; None where there is none."""
    if not _has_driver():
        yield None
        return
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        path = path or playwright.chromium.executable_path
        if not Path(path).exists():
            yield None
            return
        arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


def _has_driver() -> bool:
    """Return whether what drives a browser runs: it needs a library that not every system has."""
    command = [sys.executable, "-m", "playwright", "--version"]
    return subprocess.run(command, capture_output=True).returncode == 0


def outside(page: Page) -> list[str]:
    """Return what of a page is wider than the screen, or than what it is in and would scroll in.

    A candidate's text is left out: it may be of any length, and ends in an ellipsis.
    """
    found: list[str] = page.locator("body, body *").evaluate_all(_OUTSIDE)
    return found
