"""`softtargets plan`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from softtargets.cli.budget_option import (
    RANKED_BY,
    budget_table,
    check_budget_options,
    describe_fits,
    fit_budget,
)
from softtargets.cli.conversation import conversation_text, describe_stretches, read_stretches
from softtargets.cli.options import build_options, parse_build
from softtargets.cli.paths import STORE
from softtargets.cli.ranks import TENSOR_PARALLEL, all_ranks, check_one_worker, num_ranks
from softtargets.cli.selection_options import selection_text
from softtargets.cli.tables import key_value_table, left_out_text, windows_text
from softtargets.cli.terminal import echo, echo_json
from softtargets.report.number_texts import bytes_text
from softtargets.texts import plural

if TYPE_CHECKING:
    from softtargets.capture import BuildConfig, Estimate
    from softtargets.capture.corpus_sample import CorpusSample
    from softtargets.capture.teacher import Teacher
    from softtargets.fidelity.budget import Fit


@click.command("plan")
@click.option(
    "--output",
    metavar="STORE",
    type=STORE,
    expose_value=False,
    help="The --output of build, so that its options can be pasted. Nothing is written there.",
)
@TENSOR_PARALLEL
@build_options
@click.option(
    "--sample",
    type=int,
    help="Windows that the teacher reads, to measure.  [default: 16, and fewer of a small corpus]",
)
@click.option(
    "--budget-bytes-per-token",
    "budget",
    type=click.FloatRange(min=0, min_open=True),
    help="Find what to keep within so many bytes per token, on the sample.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.pass_context
def plan_command(
    context: click.Context,
    /,
    sample: int | None,
    budget: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what a build would take, before it starts.

    The command prints the size of the store, the time it takes, and when it pays. Pass the options
    of build. The command reads and tokenises the whole corpus, and runs the teacher on a random
    sample of its windows on this machine. It writes nothing. If the corpus has conversations, it
    prints one as the teacher reads it, with the targets in [[double brackets]].
    """
    config, teacher = parse_build(options)
    if budget is not None:
        check_budget_options(context, config)
    check_one_worker(config, teacher)
    with all_ranks(teacher) as is_first:
        if is_first:
            _plan(config, teacher, sample, budget, as_json=as_json)


def _plan(
    config: BuildConfig,
    teacher: Teacher,
    sample: int | None,
    budget: float | None,
    *,
    as_json: bool,
) -> None:
    """Find out what a build would take, and print it."""
    from softtargets.capture import sample_corpus

    corpus = sample_corpus(config, teacher, sample)
    fits = [] if budget is None else fit_budget(config, teacher, corpus.windows, budget)
    found, title = _estimate(config, teacher, corpus, fits)
    stretches = []
    if config.corpus.messages_field is not None:
        stretches = read_stretches(corpus.first, teacher.tokenizer.vocabulary())
    if as_json:
        fitted = {"selections": describe_fits(fits), "ranked_by": RANKED_BY} if fits else {}
        talk = {"conversation": describe_stretches(stretches)} if stretches else {}
        echo_json(describe(found) | fitted | talk)
        return
    console = Console(highlight=False)
    if budget is not None:
        console.print(budget_table(fits, budget))
        echo(RANKED_BY, "")
    console.print(key_value_table(title, rows(found, config, num_ranks(teacher))))
    if stretches:
        first = f"{corpus.first.source}, document {corpus.first.document_ids[0]}"
        echo("", f"{first}, as the teacher reads it, targets in [[double brackets]]:")
        console.print(conversation_text(stretches))


def _estimate(
    config: BuildConfig, teacher: Teacher, corpus: CorpusSample, fits: list[Fit]
) -> tuple[Estimate, str]:
    """Return what a build would take, with the best of the selections that fit, and its title."""
    from softtargets.capture import estimate_from

    if not fits:
        return estimate_from(config, teacher, corpus), "A build with these options"
    best = fits[0]
    found = estimate_from(dataclasses.replace(config, selection=best.selection), teacher, corpus)
    # The size that the selection was chosen by, of the same windows; in other batches the
    # teacher's numbers differ by rounding.
    found = dataclasses.replace(found, bytes_per_token=best.bytes_per_token)
    return found, f"A build with {selection_text(best.selection)}"


def describe(found: Estimate) -> dict[str, Any]:
    """Return an estimate as JSON."""
    derived = (
        "num_bytes", "bytes_per_target", "hours", "least_hours", "most_hours", "online_hours",
        "break_even_epochs",
    )  # fmt: skip
    return dataclasses.asdict(found) | {name: getattr(found, name) for name in derived}


def rows(found: Estimate, config: BuildConfig, num_processes: int = 1) -> dict[str, str]:
    """Return the rows of the table."""
    corpus = found.corpus
    processes = "one process" if num_processes == 1 else f"{num_processes} processes"
    return {
        "documents": f"{corpus['documents']:,}",
        "windows": windows_text(config, corpus),
        "left out": left_out_text(corpus),
        "targets": f"{found.num_targets:,}",
        "units": f"{found.num_units:,}",
        "size": f"{bytes_text(found.num_bytes)}: {found.bytes_per_token:.1f} bytes a token, "
        f"{found.bytes_per_target:.1f} bytes a target",
        "time": f"{hours_text(found.hours)} in {processes} on this machine "
        f"({hours_text(found.least_hours)} to {hours_text(found.most_hours)}), "
        f"{found.tokens_per_second:,.0f} tokens/s ({found.slowest_tokens_per_second:,.0f} to "
        f"{found.fastest_tokens_per_second:,.0f})",
        "break-even": f"a teacher beside the student runs {hours_text(found.online_hours)} in "
        f"every epoch of every student: {found.break_even_epochs:.2f} epochs cost as much as this "
        "build",
        "measured on": f"{plural(found.sample_windows, 'random window')} with "
        f"{plural(found.sample_tokens, 'token')}, after a first batch that is not timed",
        "fingerprint": found.fingerprint,
    }


def hours_text(hours: float) -> str:
    """Return a duration for people."""
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{hours * 60:.1f} minutes" if hours * 60 >= 1 else f"{hours * 3600:.1f} seconds"
