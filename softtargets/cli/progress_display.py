"""How far something is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as ProgressBar

from softtargets.cli.terminal import echo

if TYPE_CHECKING:
    from softtargets.capture import Progress
    from softtargets.runs import TrainProgress

LOG_SECONDS = 10.0
"""How often a line is printed where there is no terminal to draw a bar on."""


@contextmanager
def lines(text: Callable[[], str]) -> Iterator[Callable[[], None]]:
    """Print `text()` every `LOG_SECONDS`, from a thread: what is being done may take longer.

    Yields what raises an error of that thread, if it met one, such as a closed pipe. At the end it
    is raised in any case.
    """
    is_over = Event()

    def print_lines() -> None:
        while not is_over.wait(LOG_SECONDS):
            echo(text())

    def check(printing: Future[None]) -> None:
        if printing.done():
            printing.result()

    with ThreadPoolExecutor(1, "softtargets-log") as thread:
        printing = thread.submit(print_lines)
        try:
            yield lambda: check(printing)
        finally:
            is_over.set()
    printing.result()


@contextmanager
def build_display(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Yield what shows how far a build is."""
    started = time.monotonic()
    if not console.is_terminal:
        last: Progress | None = None

        def text() -> str:
            seconds = time.monotonic() - started
            return f"planning, {seconds:.0f} s" if last is None else progress_text(last, seconds)

        with lines(text) as check:

            def note(progress: Progress) -> None:
                nonlocal last
                last = progress
                check()

            yield note
        return
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
    with ProgressBar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("planning", total=None)

        def draw(progress: Progress) -> None:
            bar.update(
                task,
                description=progress_text(progress, time.monotonic() - started),
                total=progress.all_tokens,
                completed=progress.num_tokens,
            )

        yield draw


@contextmanager
def training_display(console: Console) -> Iterator[Callable[[str, TrainProgress], None]]:
    """Yield what shows how far a training is: loss, tokens/s and time left."""
    if console.quiet:
        yield lambda _name, _progress: None
        return
    said = "The training begins ..."
    if not console.is_terminal:

        def note(name: str, progress: TrainProgress) -> None:
            nonlocal said
            said = training_text(name, progress)

        # At once, too: what came before may have said nothing for as long as a line may take.
        echo(said)
        with lines(lambda: said):
            yield note
        return
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
    with ProgressBar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(said, total=None)

        def draw(name: str, progress: TrainProgress) -> None:
            description = training_text(name, progress)
            bar.update(task, description=description, total=progress.steps, completed=progress.step)

        yield draw


def training_text(name: str, progress: TrainProgress) -> str:
    """Return steps, loss, tokens/s and time left, as far as they are known."""
    parts = [f"{name}: {progress.step:,} of {progress.steps:,} steps"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.seconds_left is not None:
        parts.append(left_text(progress.seconds_left))
    return ", ".join(parts)


def left_text(seconds: float) -> str:
    """Return the time that is left, in hours, minutes and seconds."""
    left = int(seconds)
    return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"


def progress_text(progress: Progress, seconds: float) -> str:
    """Return windows, tokens/s, bytes/token and time left, as far as they are known."""
    parts = [f"{progress.num_windows:,} of {progress.all_windows:,} windows"]
    done_now = progress.num_tokens - progress.tokens_before
    if done_now:
        speed = done_now / seconds
        parts.append(f"{speed:,.0f} tokens/s")
    if progress.bytes_per_token is not None:
        parts.append(f"{progress.bytes_per_token:.0f} bytes/token")
    if done_now:
        parts.append(left_text((progress.all_tokens - progress.num_tokens) / speed))
    return ", ".join(parts)
