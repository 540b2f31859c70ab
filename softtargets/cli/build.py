"""`softtargets build`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as ProgressBar

from softtargets.cli.options import build_options, parse_build
from softtargets.cli.tables import bytes_text, key_value_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from softtargets.capture import BuildConfig, BuildResult, Progress
    from softtargets.capture.teacher import Teacher

LOG_SECONDS = 60
"""How often a line is printed where there is no terminal to draw a bar on."""

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""


@click.command("build")
@click.option(
    "--output",
    required=True,
    metavar="STORE",
    type=click.Path(path_type=Path),
    help="Directory of the store; an interrupted build is continued there.",
)
@build_options
def build_command(output: Path, **options: Any) -> None:
    """Run a teacher over text and store its soft targets.

    Files that follow the first after --input are read too: --input a.jsonl b.jsonl.

    Ctrl-C or a crash costs the current shard at most: run the same command again to continue.
    When the store is complete, it does nothing and says so.
    """
    config, teacher = parse_build(options, output)
    run_build(Console(highlight=False), config, teacher)


def run_build(console: Console, config: BuildConfig, teacher: Teacher) -> BuildResult:
    """Build with a progress display and print what came out."""
    from softtargets.capture import build

    number = len(config.corpus.paths)
    text = f"{number} files" if number > 1 else str(config.corpus.paths[0])
    click.echo(f"Building {config.output}: {teacher.name} on {teacher.device} reads {text}.")
    try:
        with _progress_display(console) as show:
            result = build(config, teacher, show)
    except KeyboardInterrupt:
        click.echo(
            "Interrupted. The shards done so far are kept: run the same command to continue."
        )
        raise click.exceptions.Exit(INTERRUPTED) from None
    store = result.store
    if result.num_units_before == result.num_units:
        click.echo(f"{config.output} is complete already: nothing to do.")
    else:
        corpus = store.manifest.corpus
        rows = {
            "documents": f"{corpus['documents']:,}",
            "windows": f"{len(store):,}",
            "left out": f"{corpus['repeated_windows']:,} repeated windows, "
            f"{corpus['single_tokens']:,} single tokens, "
            f"{corpus['empty_documents']:,} empty documents, "
            f"{corpus['truncated_tokens']:,} truncated tokens",
            "targets": f"{store.num_positions:,}",
            "size": f"{bytes_text(store.num_bytes)}, "
            f"{store.num_bytes / store.num_positions:.1f} bytes a target",
            "fingerprint": store.fingerprint,
        }
        console.print(key_value_table(str(config.output), rows))
    return result


@contextmanager
def _progress_display(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Yield what draws progress: a bar on a terminal, a line now and then elsewhere."""
    started = time.monotonic()
    if not console.is_terminal:
        last_line = started

        def print_line(progress: Progress) -> None:
            nonlocal last_line
            if time.monotonic() - last_line >= LOG_SECONDS:
                last_line = time.monotonic()
                click.echo(_progress_text(progress, last_line - started))

        yield print_line
        return
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
    with ProgressBar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("planning", total=None)

        def draw(progress: Progress) -> None:
            text = _progress_text(progress, time.monotonic() - started)
            bar.update(
                task, description=text, total=progress.all_tokens, completed=progress.num_tokens
            )

        yield draw


def _progress_text(progress: Progress, seconds: float) -> str:
    """Return windows, tokens/s, bytes/token and time left, as far as they are known."""
    parts = [f"{progress.num_windows:,} of {progress.all_windows:,} windows"]
    done_now = progress.num_tokens - progress.tokens_before
    if done_now:
        speed = done_now / seconds
        parts.append(f"{speed:,.0f} tokens/s")
    if progress.bytes_per_token is not None:
        parts.append(f"{progress.bytes_per_token:.0f} bytes/token")
    if done_now:
        left = int((progress.all_tokens - progress.num_tokens) / speed)
        parts.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")
    return ", ".join(parts)
