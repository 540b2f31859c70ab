"""`softtargets train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from softtargets.cli.hidden_options import layer_recipe_options, parse_layer_map
from softtargets.cli.paths import OUTPUT, LocalPath
from softtargets.cli.progress_display import training_display
from softtargets.cli.tables import key_value_table
from softtargets.cli.terminal import cell, echo
from softtargets.errors import InputError

if TYPE_CHECKING:
    from softtargets.runs import PreparedRun, TrainResult, TrainSettings

_AS_IN_SETTINGS = (
    "store", "student", "output", "teacher", "tokenizer", "recipe", "temperature", "ce_weight",
    "divergence", "tail", "logits_weight", "cosine_weight", "attention_weight", "hidden_weight",
    "embeddings_weight", "relation_heads", "logits_share", "epochs", "steps", "batch_size",
    "global_batch_size", "schedule", "warmup", "dtype", "gradient_checkpointing", "lora",
    "save_steps", "keep", "report_to", "push", "seed", "baseline", "fresh",
)  # fmt: skip
"""Options that TrainSettings has by the same names."""


def _read_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Take the options of a file for defaults, which the command line goes before."""
    if path is not None:
        from softtargets.runs.settings import read_settings

        names = [one.name or "" for one in ctx.command.params]
        ctx.default_map = read_settings(path, names)
    return path


@click.command("train")
@click.argument("store", metavar="STORE_OR_URL")
@click.option(
    "--student",
    required=True,
    metavar="SPEC",
    help="What to train: a model's directory or its id on the Hugging Face Hub; a config.json, to "
    "start from scratch; or 'teacher[layers=0,2,4]' or 'teacher[depth=3]', which copies layers.",
)
@click.option("--output", required=True, type=OUTPUT, help="Directory of the trained student.")
@click.option(
    "--teacher",
    metavar="DIR_OR_ID",
    help="The store's teacher, to copy layers or the tokenizer of, and to compare sizes with.",
)
@click.option(
    "--tokenizer",
    metavar="DIR_OR_ID",
    help="Tokenizer to save with the student.  [default: the student's, or the teacher's]",
)
@click.option(
    "--recipe",
    help="What the student learns. soft-targets: the teacher's distributions. labels: the text "
    "or its labels alone. distilbert, of masked language models: both, and the angles of hidden "
    "states. tinybert-general, tinybert-task, minilm: layers, of stores with --rerun-layers.  "
    "[default: soft-targets]",
)
@click.option(
    "--temperature",
    type=float,
    help="Temperature of the distillation, which the store holds.  [default: 1 if it does]",
)
@click.option("--ce-weight", type=float, help="Weight of the labels, from 0 to 1.")
@click.option("--divergence", help="Divergence from the teacher, forward_kl or reverse_kl say.")
@click.option("--tail", help="What stands for tokens that are not kept, bucket or sampled say.")
@click.option(
    "--logits-weight", type=float, help="Weight of all that is about logits, beside the cosine."
)
@click.option(
    "--cosine-weight",
    type=float,
    help="Weight of 1 less the cosine of the last hidden states of student and teacher.",
)
@layer_recipe_options
@click.option("--epochs", type=float, help="Times that the store is read.  [default: 3]")
@click.option("--steps", type=int, help="Optimizer steps, instead of epochs.")
@click.option(
    "--batch-size",
    type=int,
    help="Windows of a forward pass on one process.  [default: at most 8]",
)
@click.option(
    "--global-batch-size",
    type=int,
    help="Windows of an optimizer step over all processes.  [default: 32, or the batches of all "
    "processes if --batch-size is given]",
)
@click.option(
    "--lr",
    default="auto",
    help="Learning rate. auto: 5e-4 from scratch or with layers left out, 2e-5 for a pretrained "
    "student, 2e-4 for LoRA.",
)
@click.option("--schedule", default="linear", help="Schedule of transformers for it.")
@click.option(
    "--warmup", default=0.05, help="Share of the steps in which it rises, or their number."
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    help="Number format of forward passes. auto: bfloat16 on a GPU that has it, else float32.",
)
@click.option(
    "--gradient-checkpointing", is_flag=True, help="Take less memory, and some third more time."
)
@click.option(
    "--lora",
    metavar="r=16",
    help="Train small matrices beside the weights, and add them to these at the end. May go on "
    "with alpha=32,dropout=0.05,targets=q_proj+v_proj.",
)
@click.option("--eval", metavar="STORE_OR_URL", help="Store to evaluate on.")
@click.option(
    "--eval-share",
    default=0.02,
    help="Share of the documents to hold out and evaluate on without --eval. 0 for none.",
)
@click.option(
    "--eval-steps", type=int, help="Steps from one evaluation to the next.  [default: a fifth]"
)
@click.option(
    "--save-steps", type=int, help="Steps from one checkpoint to the next.  [default: a tenth]"
)
@click.option("--keep", default=2, help="Checkpoints to keep.")
@click.option(
    "--report-to", multiple=True, help="Tracker of transformers, such as wandb. Repeat for more."
)
@click.option("--push", metavar="ORG/NAME", help="Model on the Hugging Face Hub to push to.")
@click.option("--seed", default=0, help="Of the order, and of weights that start at random.")
@click.option(
    "--baseline", is_flag=True, help="Also train a twin on the labels alone, to compare with."
)
@click.option(
    "--config",
    type=LocalPath("a local file", exists=True, dir_okay=False),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="YAML file with these options by name. What is on the command line goes before.",
)
@click.option(
    "--set",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other field of TrainingArguments of transformers. Repeat for more.",
)
@click.option("--fresh", is_flag=True, help="Begin anew in a directory that has a run.")
@click.option("--dry-run", is_flag=True, help="Print what would be done; train and write nothing.")
def train_command(dry_run: bool, **options: Any) -> None:
    """Train a student on a store, and write a directory that transformers loads.

    The same command goes on after an interruption. At the end a table shows what the student was
    before and what it is now, on documents that it was not trained on. To train on several devices,
    run it by torchrun or by accelerate launch, with -m softtargets train.
    """
    from softtargets.runs import prepare, train
    from softtargets.runs.process_group import closing_processes

    with closing_processes():
        run = prepare(_parse_settings(options))
        console = Console(highlight=False, quiet=not run.is_main)
        console.print(resolved_table(run))
        if dry_run:
            console.print("Nothing was trained or written.")
            return
        with training_display(console) as on_progress:
            result = train(run, on_progress)
        if run.is_main:
            say_result(console, run, result)


def _parse_settings(options: dict[str, Any]) -> TrainSettings:
    from softtargets.runs import TrainSettings
    from softtargets.runs.settings import parse_arguments

    rate = options["lr"]
    return TrainSettings(
        **{name: options[name] for name in _AS_IN_SETTINGS},
        learning_rate=None if rate == "auto" else _number("--lr", rate),
        layer_map=parse_layer_map(options["layer_map"]),
        evaluation=options["eval"],
        evaluation_share=options["eval_share"],
        evaluation_steps=options["eval_steps"],
        arguments=parse_arguments(options["set"]),
    )


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(
            option, expected="auto or a number", found=text, next_step="Correct the option."
        ) from error


def resolved_table(run: PreparedRun) -> Table:
    """Return a table of what a run resolved."""
    from softtargets.runs.run_words import described, duration_text

    rows = described(run)
    rows["expected"] = f"about {duration_text(run.seconds)}, and evaluations"
    return key_value_table(f"Training {os.fspath(run.settings.output)}", rows)


def say_result(console: Console, run: PreparedRun, result: TrainResult) -> None:
    """Print the figures of a run, and how to load its student."""
    from softtargets.runs.run_card import figure_table, loading_line

    if result.was_finished:
        echo("The run is complete already: nothing to do.")
    headings, rows = figure_table(result.results)
    if rows:
        table = Table(
            title="On documents that were held out", title_justify="left", box=None, pad_edge=False
        )
        for place, heading in enumerate(headings):
            table.add_column(heading, justify="right" if place else "left", no_wrap=not place)
        for row in rows:
            table.add_row(*map(cell, row))
        console.print(table)
    echo("", "To load the student:", "", f"    {loading_line(run)}")
