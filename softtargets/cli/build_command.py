"""`softtargets build`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from softtargets.cli.engine_options import ENGINE_OPTIONS, parse_engine
from softtargets.cli.options import build_options, parse_build, with_options
from softtargets.cli.paths import STORE
from softtargets.cli.progress_display import build_display
from softtargets.cli.ranks import TENSOR_PARALLEL, all_ranks, check_one_worker
from softtargets.cli.tables import key_value_table, left_out_text, windows_text
from softtargets.cli.terminal import echo
from softtargets.places import Place
from softtargets.report.summary import size_text
from softtargets.texts import plural

if TYPE_CHECKING:
    from collections.abc import Callable

    from softtargets.capture import BuildConfig, BuildResult, Progress
    from softtargets.capture.teacher import Teacher
    from softtargets.engines import Engine

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""


class UnitRange(click.ParamType[tuple[int, int | None]]):
    """A:B, or A: for all from A on."""

    name = "A:B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int | None]:
        """Return A and B."""
        found = re.fullmatch(r"(\d+):(\d*)", value)
        if found is None:
            self.fail(f"{value!r} is not of the form A:B or A:, for example 0:16.", param, ctx)
        return int(found[1]), int(found[2]) if found[2] else None


@click.command("build")
@click.option(
    "--output",
    required=True,
    metavar="STORE",
    type=STORE,
    help="Directory of the store, or its URL in an object store, as s3://bucket/store. An "
    "interrupted build continues there.",
)
@click.option(
    "--unit-range",
    type=UnitRange(),
    help="Run only units A to B - 1, while other processes and machines run others. A: runs all "
    "from A on. When all units are done, softtargets commit makes the store.",
)
@TENSOR_PARALLEL
@with_options(ENGINE_OPTIONS)
@build_options
def build_command(
    output: Place,
    unit_range: tuple[int, int | None] | None,
    engine_name: str,
    ray_address: str | None,
    gpus_per_worker: float | None,
    **options: Any,
) -> None:
    """Run a teacher over text and store its soft targets.

    --input may be followed by several files, as in --input a.jsonl b.jsonl.

    Ctrl-C or a crash costs one shard at most. Run the same command again to continue. When the
    store is complete, the command does nothing and says so.
    """
    engine = parse_engine(engine_name, ray_address, gpus_per_worker, workers=options["workers"])
    config, teacher = parse_build(options)
    console = Console(highlight=False)
    check_one_worker(config, teacher, engine)
    with all_ranks(teacher) as is_first:
        if not is_first:
            return
        if unit_range is None:
            run_build(console, config, teacher, output, engine)
        else:
            _run_range(console, config, teacher, output, engine, *unit_range)


@click.command("commit")
@click.argument("store", type=STORE)
def commit_command(store: Place) -> None:
    """Make a store of the units that --unit-range built.

    All units must be done. The command lists those that are missing.
    """
    from softtargets.capture import commit

    committed = commit(store)
    windows, targets = plural(len(committed), "window"), plural(committed.num_positions, "target")
    echo(f"{store}: {windows}, {targets}.")
    echo(f"size {size_text(committed)}")
    echo(f"fingerprint {committed.fingerprint}")


def run_build(
    console: Console,
    config: BuildConfig,
    teacher: Teacher,
    place: Place,
    engine: Engine | None = None,
) -> BuildResult:
    """Build with a progress display and print what came out."""
    from softtargets.capture import build

    with _watching(console, config, teacher, place) as show:
        result = build(config, teacher, show, engine=engine, place=place)
    store = result.store
    if result.was_complete:
        echo(f"{place} is complete already: nothing to do.")
    else:
        corpus = store.manifest.corpus
        rows = {
            "documents": f"{corpus['documents']:,}",
            "windows": windows_text(config, corpus),
            "left out": left_out_text(corpus),
            "targets": f"{store.num_positions:,}",
            "size": size_text(store),
            "fingerprint": store.fingerprint,
        }
        console.print(key_value_table(str(place), rows))
    return result


def _run_range(
    console: Console,
    config: BuildConfig,
    teacher: Teacher,
    place: Place,
    engine: Engine | None,
    start: int,
    stop: int | None,
) -> None:
    from softtargets.capture import build_range

    with _watching(console, config, teacher, place) as show:
        result = build_range(config, teacher, start, stop, show, engine=engine, place=place)
    done = f"{result.num_done:,} of {plural(result.num_units, 'unit')} are done"
    if result.num_done < result.num_units:
        echo(f"Units {start} to {(stop or result.num_units) - 1}: done. In all {done}.")
    else:
        echo(f"All {done}: softtargets commit {place}")


@contextmanager
def _watching(
    console: Console, config: BuildConfig, teacher: Teacher, place: Place
) -> Iterator[Callable[[Progress], None]]:
    """Say what is begun, yield what shows progress, and end in peace after Ctrl-C."""
    name = config.corpus.name
    echo(f"Building {place}: {teacher.name} on {teacher.device} reads {name}.")
    try:
        with build_display(console) as show:
            yield show
    except KeyboardInterrupt:
        echo("Interrupted. The shards done so far are kept: run the same command to continue.")
        raise click.exceptions.Exit(INTERRUPTED) from None
