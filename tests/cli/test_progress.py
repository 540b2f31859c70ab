"""Where no bar can be drawn, a line says every few seconds that something goes on."""

from __future__ import annotations

import io
import subprocess
import sys
from queue import SimpleQueue

import pytest
from rich.console import Console

from softtargets.capture import Progress
from softtargets.cli import progress_display
from softtargets.cli.progress_display import (
    build_display,
    lines,
    progress_text,
    training_display,
)
from softtargets.runs import TrainProgress

THIRTY = Progress(
    num_windows=30, num_tokens=3000, all_windows=100, all_tokens=10_000, tokens_before=1000,
    bytes_per_token=130.4,
)  # fmt: skip


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> SimpleQueue[str]:
    """The lines that are printed, hardly any time apart."""
    queue = SimpleQueue[str]()
    monkeypatch.setattr(progress_display, "LOG_SECONDS", 1e-3)
    monkeypatch.setattr(progress_display, "echo", queue.put)
    return queue


def next_other(said: SimpleQueue[str], last: str) -> str:
    while (line := said.get()).startswith(last):
        pass
    return line


def test_a_line_comes_at_least_every_fifteen_seconds() -> None:
    assert progress_display.LOG_SECONDS < 15


def test_a_build_that_stands_still_is_heard_of(said: SimpleQueue[str]) -> None:
    with build_display(Console(file=io.StringIO())) as show:
        assert said.get().startswith("planning, ")
        show(THIRTY)
        assert next_other(said, "planning").startswith("30 of 100 windows, ")


def test_a_training_is_heard_of_from_the_start(
    said: SimpleQueue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(progress_display, "LOG_SECONDS", 1e6)
        with training_display(Console(file=io.StringIO())):
            assert said.get() == "The training begins ..."
    with training_display(Console(file=io.StringIO())) as show:
        assert said.get() == "The training begins ..."
        show(
            "labels",
            TrainProgress(step=4, steps=9, loss=None, tokens_per_second=None, seconds_left=None),
        )
        assert next_other(said, "The training") == "labels: 4 of 9 steps"
    while not said.empty():
        said.get()
    with training_display(Console(file=io.StringIO(), quiet=True)):
        assert said.empty()


def test_a_closed_pipe_is_raised_where_it_is_seen(
    said: SimpleQueue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(line: str) -> None:
        said.put(line)
        raise BrokenPipeError

    monkeypatch.setattr(progress_display, "echo", fail)
    with pytest.raises(BrokenPipeError), lines(lambda: "still here") as check:
        said.get()
        while True:
            check()
    with pytest.raises(BrokenPipeError), lines(lambda: "still here"):
        said.get()


def test_a_terminal_gets_a_bar_with_speed_and_time_left() -> None:
    text = progress_text(THIRTY, seconds=4.0)
    assert text == "30 of 100 windows, 500 tokens/s, 130 bytes/token, 0:00:14 left"
    terminal = io.StringIO()
    with build_display(Console(file=terminal, force_terminal=True, width=100)) as show:
        show(THIRTY)
    assert "30 of 100 windows, " in terminal.getvalue()


BARS = """
import sys
from softtargets.cli import main

try:
    main(["info", "nowhere"])
except SystemExit:
    from tqdm.auto import tqdm

    list(tqdm(range(3)))
"""


@pytest.mark.slow
def test_other_libraries_draw_no_bars() -> None:
    """The conversion of the demo's teacher draws one by this very name."""
    done = subprocess.run([sys.executable, "-c", BARS], capture_output=True, text=True)
    assert done.returncode == 0
    assert "it/s" not in done.stderr
    assert "nowhere" in done.stderr
