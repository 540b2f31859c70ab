from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from softtargets.cli import main
from softtargets.report.page import report
from softtargets.report.tokens import visible, visible_bytes
from softtargets.store import Store
from tests.golden import GOLDEN, make_store
from tests.object_store import Bucket
from tests.report.hostile import DOCUMENT, SOURCE, TOKENS, hostile_store
from tests.windows import KINDS

GOLDENS = sorted(path.name for path in GOLDEN.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDENS)
def test_every_kind_and_every_format_has_a_page(name: str) -> None:
    store = Store.open(GOLDEN / name / "store")
    page = report(store)
    assert store.fingerprint in page
    titles = re.findall(r"<h3>([A-Z][a-z ]+)</h3>", page)
    has_tail = store.targets.head is not None and len(store.targets.temperatures) > 0
    assert ("Tail mass" in titles) == has_tail
    assert "nan" not in re.findall(r"[a-z]+", page)
    assert "None" not in page
    assert page == report(Store.open(GOLDEN / name / "store"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["topk", "hybrid"])
def test_a_page_asks_for_nothing(tmp_path: Path, kind: str) -> None:
    page = report(make_store(tmp_path / kind, kind))
    asked = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", page)
    assert asked
    assert all(one.startswith(("#", "data:")) for one in asked)
    assert not re.search(r"https?:|@import|srcset", page)


def test_hostile_text_is_no_markup(tmp_path: Path) -> None:
    page = report(hostile_store(tmp_path / "store"))
    for text in (*TOKENS[:4], SOURCE, DOCUMENT):
        assert text not in page
    # The page's own two scripts, and no other.
    assert page.count("<script") == page.count("</script") == 2
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "49" not in re.findall(r">([^<]*)<", page)


def test_a_name_on_the_page_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    store = hostile_store(tmp_path / "store")
    store.root.rename(tmp_path / "\u202ea\x1b\x9b<b>")
    page = report(Store.open(tmp_path / "\u202ea\x1b\x9b<b>"))
    assert "<title>\\u202ea\\x1b\\x9b&lt;b&gt; &ndash;" in page
    assert not {one for one in page if not one.isprintable()} - {"\n"}


def test_what_cannot_be_seen_is_shown() -> None:
    assert visible_bytes(b" a\n\t") == "\u00b7a\u21b5\u21e5"
    assert visible_bytes(b"\xc3\xa9") == "\u00e9"
    assert visible_bytes(b"\xe2\x82") == "\\xE2\\x82"
    assert visible("\u202e\x1b\u200b\U000e0001") == "\\u202e\\u001b\\u200b\\U000e0001"
    assert visible("\u0301") == "\u25cc\u0301"


@pytest.mark.slow
def test_windows_are_chosen(store: Store) -> None:
    ids = store.window_ids()
    page = report(store, window_ids=[ids[2][:12], ids[0]])
    assert re.findall(r"<code>([0-9a-f]{32})</code>", page) == [ids[2], ids[0]]
    assert 'id="examples"' not in report(store, num_examples=0)
    assert "From 2 of" in report(store, most_windows=2)


@pytest.mark.slow
def test_a_store_behind_a_url_has_the_same_page(store: Store, bucket: Bucket) -> None:
    assert report(Store.open(bucket.copy(store))) == report(store)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_command_writes_it(tmp_path: Path, kind: str) -> None:
    root = make_store(tmp_path / "store", kind).root
    output = tmp_path / "page.html"
    result = CliRunner().invoke(main, ["report", str(root), "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert output.read_text() == report(Store.open(root))
    missing = CliRunner().invoke(main, ["report", str(root), "--output", str(tmp_path / "a" / "b")])
    assert missing.exit_code == 1
    assert "a path in a directory that is there" in missing.output
