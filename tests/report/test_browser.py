"""The page in headless Chromium, as people see and use it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page

from softtargets.report.examples import MOST_CANDIDATES
from softtargets.report.page import report
from softtargets.store import Store
from softtargets.window import Window
from tests.fakes import build_store
from tests.golden import write_store
from tests.report.chromium import PHONE, open_browser, outside
from tests.report.hostile import hostile_store
from tests.windows import KINDS, make_vocabulary, make_window

pytestmark = pytest.mark.slow

WIDE = (1280, 900)
Shown = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, which is there wherever CI runs."""
    with open_browser() as browser:
        if browser is None:
            give_up = pytest.fail if os.environ.get("CI") else pytest.skip
            give_up("No browser: apt-get install chromium, or playwright install chromium")
        yield browser


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Shown]:
    """What opens a store's page; the page may say and ask for nothing."""
    said: list[str] = []

    def open_page(store: Store, size: tuple[int, int] = WIDE, scheme: str = "light") -> Page:
        path = tmp_path / "report.html"
        path.write_text(report(store))
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if scheme == "dark" else "light",
            has_touch=size == PHONE,
        )
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url))
        page.goto(path.as_uri())
        assert said == [path.as_uri()]
        return page

    yield open_page
    assert [one for one in said if not one.startswith("file:")] == []


def token(page: Page, target: int) -> Locator:
    return page.locator(f"[data-window='0'] [data-target='{target}']")


def shown_shares(page: Page) -> list[float]:
    """Return the probabilities of the candidates in the panel."""
    rows = page.locator("#prediction ol").first.locator("li:not(.tail)[data-p]")
    return [float(one) for one in rows.evaluate_all("all => all.map(one => one.dataset.p)")]


def stored_shares(window: Window, target: int, temperature: float) -> np.ndarray:
    return np.exp(window.targets.logprobs_TK(temperature)[target, :MOST_CANDIDATES])


def first_shown(store: Store) -> Window:
    """Return the first example: the middle of the first third."""
    return list(store)[len(store) // 6]


def test_a_token_shows_what_the_store_says(show: Shown, store: Store) -> None:
    page, window = show(store), first_shown(store)
    token(page, 3).hover()
    np.testing.assert_allclose(shown_shares(page), stored_shares(window, 3, 1.0), rtol=6e-4)
    tail = page.locator("#prediction .tail").get_attribute("data-p")
    assert float(tail or "nan") == pytest.approx(window.targets.tail_mass_TG[3, 0], rel=6e-4)
    came = chr(window.input_ids_L[4]).replace(" ", "\u00b7")
    assert page.locator("#prediction h3").inner_text() == f"Before {came} the teacher expected"
    assert window.targets.label_rank_T is not None
    assert (
        f"place {window.targets.label_rank_T[3] + 1}," in page.locator("#prediction").inner_text()
    )

    page.get_by_role("radio", name="2").check()
    np.testing.assert_allclose(shown_shares(page), stored_shares(window, 3, 2.0), rtol=6e-4)
    assert page.locator("figure svg:visible").count() == page.locator("figure").count()
    label = page.locator("figure svg:visible").first.get_attribute("aria-label") or ""
    assert "temperature 2" in label


def test_the_keyboard_walks_over_the_tokens(show: Shown, store: Store) -> None:
    page, window = show(store), first_shown(store)
    token(page, 0).focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    np.testing.assert_allclose(shown_shares(page), stored_shares(window, 2, 1.0), rtol=6e-4)
    page.keyboard.press("Escape")
    assert page.locator("#prediction").is_hidden()


def test_a_tap_on_a_phone_opens_and_closes(show: Shown, store: Store) -> None:
    page, window = show(store, PHONE), first_shown(store)
    panel = page.locator("#prediction")
    assert panel.is_hidden()
    # At the lower edge, where the sheet would cover it; locator.tap would scroll by itself.
    token(page, 5).evaluate(
        "one => scrollBy(0, one.getBoundingClientRect().bottom - innerHeight + 4)"
    )
    at = token(page, 5).bounding_box()
    assert at is not None
    page.touchscreen.tap(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    np.testing.assert_allclose(shown_shares(page), stored_shares(window, 5, 1.0), rtol=6e-4)
    own, sheet = token(page, 5).bounding_box(), panel.bounding_box()
    assert own is not None
    assert sheet is not None
    assert own["y"] + own["height"] <= sheet["y"]
    page.get_by_role("button", name="Close").tap()
    assert panel.is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_nothing_is_clipped_or_overlaps(
    show: Shown, tmp_path: Path, size: tuple[int, int], scheme: str
) -> None:
    page = show(build_store(tmp_path), size, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    clipped = """all => all.filter(one => one.scrollWidth > one.clientWidth + 1)
        .map(one => one.outerHTML.slice(0, 80))"""
    assert page.locator("h1, h2, h3, dd, figcaption, li, td, article").evaluate_all(clipped) == []
    sections = page.locator("header, nav, section, footer").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect()).map(one => [one.top, one.bottom])"
    )
    assert all(low <= high for (_, low), (high, _) in pairwise(sections))
    overlapping = """all => all.flatMap(chart => {
        const boxes = [...chart.querySelectorAll("text")].map(one => one.getBoundingClientRect());
        return boxes.filter((one, at) => boxes.slice(at + 1).some(other =>
            one.left < other.right && other.left < one.right &&
            one.top + 3 < other.bottom && other.top + 3 < one.bottom));
    }).length"""
    assert page.locator("figure svg:visible").evaluate_all(overlapping) == 0
    assert page.locator("figure svg:visible").count() >= 4

    path = tmp_path / "screenshot.png"
    page.screenshot(path=path, full_page=True)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] == size[0]
    assert len(np.unique(pixels @ np.array([1 << 16, 1 << 8, 1]))) > 200
    assert (pixels[1, 1].mean() < 128) == (scheme == "dark")


def test_no_word_of_the_page_is_outside_a_phone(show: Shown, tmp_path: Path) -> None:
    """Nor in something that scrolls sideways; with long names and every column of numbers."""
    rng, schema = np.random.default_rng(0), KINDS["hybrid"]
    windows = [
        replace(
            make_window(rng, schema, num_tokens=60)[0],
            source=f"a-rather-long-directory/of-conversations/part-{number:05}.jsonl.zst",
            document_ids=("a" * 90, "b"),
        )
        for number in range(4)
    ]
    store = write_store(tmp_path / "store", schema, [windows], vocabulary=make_vocabulary())
    page = show(store, PHONE)
    token(page, 3).evaluate("one => one.click()")
    assert page.locator("#prediction").is_visible()
    for temperature in ("1", "2"):
        page.get_by_role("radio", name=temperature, exact=True).check()
        assert outside(page) == []
    rows = page.locator(".sources tbody tr")
    assert rows.count() == 4
    assert "perplexity" in rows.first.locator("td").nth(3).evaluate(
        "one => getComputedStyle(one, '::before').content"
    )


def test_hostile_text_does_not_run(show: Shown, tmp_path: Path) -> None:
    page = show(hostile_store(tmp_path / "store"))
    for target in range(20):
        token(page, target).hover()
    assert page.evaluate("window.hit") is None
    assert page.locator("#prediction img, article img, article script").count() == 0
    assert "<script>window.hit" in page.locator("#examples").inner_text()
