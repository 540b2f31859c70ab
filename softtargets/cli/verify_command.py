"""`softtargets verify`."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from softtargets.cli.engine_option import ENGINE_ARG
from softtargets.cli.engine_options import ENGINE_OPTIONS, parse_engine
from softtargets.cli.options import (
    DEVICE,
    REVISION,
    TRUST_REMOTE_CODE,
    teacher_config,
    with_options,
)
from softtargets.cli.ranks import TENSOR_PARALLEL, all_ranks
from softtargets.cli.terminal import echo, echo_json
from softtargets.errors import InputError
from softtargets.store import Store, VerifyReport, verify
from softtargets.store.drift import drift_text
from softtargets.task_registry import task_of
from softtargets.texts import plural
from softtargets.urls import is_url, redacted

if TYPE_CHECKING:
    from collections.abc import Callable

    from softtargets.capture.rescore import RescoreReport
    from softtargets.capture.teacher import Teacher
    from softtargets.engines import Engine

MOST_SHOWN = 20


@click.command("verify")
@click.argument("store", metavar="STORE_OR_URL")
@click.option("--fast", is_flag=True, help="Check sizes and footers only, and read no targets.")
@click.option(
    "--rescore",
    "num_windows",
    type=int,
    metavar="N",
    help="Also run the teacher over N random windows again and compare. Needs --teacher.",
)
@click.option("--teacher", metavar="DIR_OR_ID", help="Teacher that the store was built from.")
@REVISION
@DEVICE
@TRUST_REMOTE_CODE
@ENGINE_ARG
@TENSOR_PARALLEL
@click.option(
    "--workers",
    default=1,
    help="Processes that run the teacher for --rescore. With several CUDA devices each takes "
    "one in turn.",
)
@with_options(ENGINE_OPTIONS)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def verify_command(
    store: str,
    fast: bool,
    num_windows: int | None,
    teacher: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Check every checksum, count and invariant of a store.

    The command reads the whole store, or less with --fast.

    With --rescore, the command also compares the stored targets with those of the live teacher. It
    shows by how much the teacher itself varies when its batches have other windows, and what
    keeping only some entries loses. --workers and --engine say where the teacher runs. The numbers
    are the same.

    The exit code is 0 only when everything holds.
    """
    if (num_windows is None) != (teacher is None):
        raise click.UsageError("--rescore and --teacher go together.")
    is_cut = options["tensor_parallel"] is not None
    engine = _parse_engine(options)
    _check_rescoring(num_windows, engine, is_cut=is_cut)
    opened = Store.open(store)
    live = cache(partial(live_teacher, opened, name=str(teacher), **options))
    # The other ranks wait for the first from its beginning on.
    with all_ranks(live() if is_cut else None) as is_first:
        holds = not is_first or _verify(
            opened, num_windows, live, engine, fast=fast, as_json=as_json
        )
    if not holds:
        raise click.exceptions.Exit(1)


def _check_rescoring(num_windows: int | None, engine: Engine | None, *, is_cut: bool) -> None:
    """Check that what says how the teacher runs has one to run, and fits together."""
    if is_cut and num_windows is None:
        raise click.UsageError("--tensor-parallel goes with --rescore and --teacher.")
    if engine is not None and num_windows is None:
        raise click.UsageError("--workers and --engine are of --rescore: nothing else runs there.")
    if engine is not None and is_cut:
        raise click.UsageError(
            "--workers and --engine do not go with --tensor-parallel: its processes run one batch "
            "together."
        )


def _verify(
    store: Store,
    num_windows: int | None,
    live: Callable[[], Teacher],
    engine: Engine | None,
    *,
    fast: bool,
    as_json: bool,
) -> bool:
    """Verify a store, compare it with its teacher if it is sound, and print what was found.

    Returns whether everything holds.
    """
    from softtargets.capture import rescore

    report = verify(store, fast=fast)
    if not as_json:
        print_verification(store, report, fast=fast)
    rescored = None
    if report.is_sound and num_windows is not None:
        rescored = rescore(store, live(), num_windows, engine=engine)
    if as_json:
        echo_json(describe(store, report, rescored))
    elif rescored is not None:
        print_rescoring(store, rescored)
    return report.is_sound and (rescored is None or rescored.holds)


def describe(store: Store, report: VerifyReport, rescored: RescoreReport | None) -> dict[str, Any]:
    """Return everything that was found, as JSON."""
    described = {
        "path": str(store.location),
        "fingerprint": store.fingerprint,
        "is_sound": report.is_sound,
        **asdict(report),
    }
    if rescored is not None:
        described["rescored"] = {
            **asdict(rescored),
            "holds": rescored.holds,
            "temperatures": [{**asdict(one), "holds": one.holds} for one in rescored.temperatures],
            "features": [{**asdict(one), "holds": one.holds} for one in rescored.features],
        }
    return described


def _parse_engine(options: dict[str, Any]) -> Engine | None:
    """Take what says where units run out of the options; None is for this process."""
    names = ("engine_name", "ray_address", "gpus_per_worker")
    workers: int = options.pop("workers")
    engine = parse_engine(**{name: options.pop(name) for name in names}, workers=workers)
    if engine is not None or workers == 1:
        return engine
    from softtargets.engines import local_engine

    if workers < 1:
        raise InputError(
            "--workers",
            expected="a positive number",
            found=str(workers),
            next_step="Omit it for one process.",
        )
    return local_engine(workers)


def live_teacher(store: Store, *, name: str, **options: Any) -> Teacher:
    """Return the teacher that a store is compared with, to be run as it was for the store."""
    from softtargets.capture.teacher_registry import options_of

    if "imported" in store.manifest.identity:
        raise InputError(
            f"{store.location}",
            expected="a store whose teacher is known, to be compared with it",
            found="one of imported lists",
            next_step="verify without --rescore checks what can be checked of it.",
        )
    if is_url(name):
        raise InputError(
            f"--teacher {redacted(name)}",
            expected="a model in this process, for the logits of its whole vocabulary",
            found="a server",
            next_step="softtargets build --reference compares a server with its model.",
        )
    how = options_of(store.manifest.identity["teacher"], options.pop("engine_arg"))
    named = teacher_config(name, **how, **options)
    teacher: Teacher = task_of(store.targets).capture().teacher(named)
    return teacher


def print_rescoring(store: Store, report: RescoreReport) -> None:
    """Print what came out of a comparison with the teacher."""
    windows, targets = plural(report.num_windows, "window"), plural(report.num_positions, "target")
    table = Table(
        title=f"{windows}, {targets}, in nats: mean of the largest difference of "
        "log-probabilities, and KL"
    )
    columns = ("temperature", "stored to live", "live to live", "may add", "KL stored", "KL live")
    for column in (*columns, "KL of the top k", "draws off", ""):
        table.add_column(column, justify="right")
    for one in report.temperatures:
        numbers = (one.stored.largest, one.live.largest, one.bound)
        divergences = (one.stored.kl, one.live.kl, one.truncation_kl)
        table.add_row(
            f"{one.temperature:g}",
            *(f"{number:.4f}" for number in numbers),
            *("-" if number is None else f"{number:.2e}" for number in divergences),
            "-" if one.draws_deviation is None else f"{one.draws_deviation:+.1f} s.e.",
            "holds" if one.holds else "FAILS",
        )
    Console(highlight=False, width=120).print(table)
    for layer in report.features:
        echo(
            f"{layer.name}: stored to live {layer.stored:.2e}, live to live {layer.live:.2e}, may "
            f"add {layer.bound:.2e}, relative: {'holds' if layer.holds else 'FAILS'}"
        )
    if store.manifest.drift:
        echo(f"Beside that, the engine was off {drift_text(store.manifest.drift)}.")
    if report.holds:
        echo(f"{store.location} agrees with the live teacher.")
    else:
        echo(
            f"{store.location} does not agree with the live teacher: its targets differ by more "
            "than the teacher's own rounding and the stored form explain. They belong to other "
            "positions, or to another teacher. Build the store again."
        )


def print_verification(store: Store, report: VerifyReport, *, fast: bool = False) -> None:
    """Print what came out of verifying a store."""
    where = store.location
    checked = (
        f"{plural(report.num_shards, 'shard')}, {plural(report.num_windows, 'window')} and "
        f"{plural(report.num_positions, 'target')}"
    )
    if report.is_sound:
        if fast:
            echo(f"{where}: sizes and footers hold; nothing else was read of {checked}.")
        else:
            echo(f"{where} is sound: {checked} checked.")
        return
    number = len(report.problems)
    echo(f"{where} is damaged: {plural(number, 'problem')} in {checked} read.")
    for problem in report.problems[:MOST_SHOWN]:
        echo(f"- {problem.where}: expected {problem.expected}; found {problem.found}.")
    if number > MOST_SHOWN:
        echo(f"... and {number - MOST_SHOWN} more.")
    echo("Restore the files from a copy, or build the store again in a new directory.")
