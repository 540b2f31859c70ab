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
@click.option("--teacher", required=True, metavar="DIR_OR_ID", help="Model directory, or a Hub id.")
@click.option(
    "--input",
    "inputs",
    required=True,
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Text to score: .txt, .jsonl (each also .gz or .zst) or .parquet; more may follow.",
)
@click.option(
    "--output",
    required=True,
    metavar="STORE",
    type=click.Path(path_type=Path),
    help="Directory of the store; an interrupted build is continued there.",
)
@click.option("--top-k", default=64, show_default=True, help="Entries kept at each position.")
@click.option(
    "--temperature",
    "temperatures",
    multiple=True,
    default=(1.0,),
    show_default=True,
    help="A temperature at which the tail mass is stored; repeat for more.",
)
@click.option("--sequence-length", default=1024, show_default=True, help="Most tokens in a window.")
@click.option(
    "--window",
    "window_kind",
    type=click.Choice(["split", "truncate"]),
    default="split",
    show_default=True,
    help="Cut long documents into windows, or keep the first of each.",
)
@click.option(
    "--overlap",
    default=0,
    show_default=True,
    help="Tokens of context that a window repeats from the one before it; not trained on again.",
)
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="Number format the teacher runs in.",
)
@click.option("--attention", default="sdpa", show_default=True, help="Attention implementation.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N, mps.")
@click.option("--revision", help="Branch, tag or commit of a Hub id.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model.")
@click.option("--text-field", default="text", show_default=True, help="Field with the text.")
@click.option("--id-field", help="Field with a document's id; its number in the file otherwise.")
@click.option(
    "--values",
    type=click.Choice(["steps", "float32"]),
    default="steps",
    show_default=True,
    help="Logits in steps of 1/16 nat, or lossless.",
)
@click.option(
    "--compression",
    type=click.Choice(["zstd", "lz4"]),
    default="zstd",
    show_default=True,
    help="Of the shards: zstd is smaller, lz4 is read faster.",
)
@click.option(
    "--unit-tokens", default=65_536, show_default=True, help="Tokens of a shard, at least."
)
@click.option(
    "--batch-tokens", default=4096, show_default=True, help="Tokens of a forward pass, at most."
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    help="Processes that run units; with several CUDA devices each takes one in turn. On a CPU one "
    "process uses all cores already.",
)
@click.argument("more_inputs", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
def build_command(**options: Any) -> None:
    """Run a teacher over text and store its soft targets.

    Files that follow the first after --input are read too: --input a.jsonl b.jsonl.

    Ctrl-C or a crash costs the current shard at most: run the same command again to continue.
    When the store is complete, it does nothing and says so.
    """
    from transformers.utils import logging as transformers_logging

    from softtargets.capture import (
        BuildConfig,
        Corpus,
        TeacherConfig,
        TopK,
        TransformersTeacher,
        Windowing,
    )

    transformers_logging.disable_progress_bar()
    console = Console(highlight=False)
    teacher = TransformersTeacher(
        TeacherConfig(
            name=options["teacher"],
            revision=options["revision"],
            dtype=options["dtype"],
            attention=options["attention"],
            device=options["device"],
            trust_remote_code=options["trust_remote_code"],
        )
    )
    config = BuildConfig(
        corpus=Corpus(
            paths=(*options["inputs"], *options["more_inputs"]),
            text_field=options["text_field"],
            id_field=options["id_field"],
        ),
        output=options["output"],
        windowing=Windowing(
            sequence_length=options["sequence_length"],
            kind=options["window_kind"],
            overlap=options["overlap"],
        ),
        selection=TopK(k=options["top_k"]),
        temperatures=options["temperatures"],
        values=options["values"],
        compression=options["compression"],
        unit_tokens=options["unit_tokens"],
        batch_tokens=options["batch_tokens"],
        workers=options["workers"],
    )
    run_build(console, config, teacher)


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
