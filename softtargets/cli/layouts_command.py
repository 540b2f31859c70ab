"""`softtargets export` and `import`: layouts of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from softtargets.cli.derive_command import say_store
from softtargets.cli.paths import INPUT, OUTPUT
from softtargets.cli.terminal import echo
from softtargets.errors import InputError
from softtargets.store import Store, export_axolotl, export_distillkit, export_plain
from softtargets.store.layouts import (
    Axolotl,
    Compression,
    DistillKit,
    Stated,
    TokenLogits,
    import_lists,
    import_plain,
)
from softtargets.store.layouts.compression import CONFIG_NAME
from softtargets.store.layouts.imports import Layout
from softtargets.texts import plural


@click.command("export")
@click.argument("store", metavar="STORE_OR_URL")
@click.argument("output", type=OUTPUT)
@click.option(
    "--to",
    "layout",
    required=True,
    type=click.Choice(["plain", "axolotl", "distillkit"]),
    help="plain: Parquet with nested lists of everything. axolotl: a dataset prepared for its KD "
    "trainer. distillkit: its compressed columns, with their configuration.",
)
@click.option(
    "--temperature",
    type=float,
    help="axolotl: temperature of the softmax, one of the store's; by default 1.",
)
@click.option(
    "--log-probabilities",
    "values",
    type=click.Choice(["renormalised", "full"]),
    help="axolotl: over the kept entries, as it prepares them itself, or the whole vocabulary's; "
    "by default renormalised.",
)
@click.option(
    "--value-format",
    type=click.Choice(["float32", "float16"]),
    help="distillkit: number format of the log-probabilities; by default float32.",
)
@click.option("--top-k", type=int, help="axolotl, distillkit: entries to write; by default all.")
@click.option(
    "--without-draws",
    is_flag=True,
    default=None,
    help="axolotl, distillkit: leave out the draws of a store, and with them its unbiasedness.",
)
def export_command(store: str, output: Path, layout: str, **options: Any) -> None:
    """Write a store in a layout that other trainers read."""
    given = {name: value for name, value in options.items() if value is not None}
    if layout == "plain":
        _check_given(given, "--to plain", ())
        directory = export_plain(store, output)
    elif layout == "axolotl":
        _check_given(given, "--to axolotl", ("temperature", "values", "top_k", "without_draws"))
        directory = export_axolotl(store, output, **given)
    else:
        _check_given(given, "--to distillkit", ("value_format", "top_k", "without_draws"))
        directory = export_distillkit(store, output, **given)
    echo(f"{directory}: {layout} layout, {plural(len(Store.open(store)), 'window')}")


@click.command("import")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=INPUT)
@click.option(
    "--from",
    "layout",
    required=True,
    type=click.Choice(["plain", "axolotl", "distillkit", "token-logits"]),
    help="plain: what 'softtargets export --to plain' wrote. axolotl: target_logprobs, or "
    "logprobs, with target_token_ids. distillkit: compressed columns. token-logits: token_ids with "
    "top_values.",
)
@click.option("--output", required=True, type=OUTPUT, help="Directory of the store.")
@click.option(
    "--values-are",
    type=click.Choice(["full", "renormalised", "logits"]),
    help="Log-probabilities of the whole vocabulary's softmax (the tail is what they leave), of "
    "the kept entries alone (there is no tail), or logits (nor here). Not for plain.",
)
@click.option("--temperature", type=float, help="Of that softmax.")
@click.option("--vocab-size", type=int, help="Width of the teacher's output, padding included.")
@click.option(
    "--tokenizer", type=INPUT, help="Directory of the teacher's tokenizer; unknown otherwise."
)
@click.option("--teacher", help="Name of the teacher; unknown otherwise.")
@click.option("--license", "license_", help="Licence of the targets, to be kept with them.")
@click.option(
    "--alignment",
    type=click.Choice(["current", "legacy"]),
    help="axolotl: whether row j is about token j + 1, or, as prepared until 0.18.0, about token "
    "j; by default current.",
)
@click.option(
    "--compression-config",
    type=INPUT,
    help=f"distillkit: YAML that the files were captured with; by default {CONFIG_NAME} beside "
    "them.",
)
@click.option(
    "--values",
    type=click.Choice(["steps", "float32"]),
    help="Logits in steps of 1/16 nat, the default, or lossless. Not for plain.",
)
def import_command(inputs: tuple[Path, ...], layout: str, output: Path, **options: Any) -> None:
    """Make a store of targets that other tools have stored.

    What the files don't say has to be stated, and stays unknown otherwise: nothing is guessed.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if layout == "plain":
        _check_given(given, "--from plain", ())
        say_store(import_plain(inputs, output))
        return
    foreign = {"axolotl": "compression_config", "distillkit": "alignment"}.get(layout)
    absent = {foreign} if foreign else {"compression_config", "alignment"}
    _check_given(given, f"--from {layout}", tuple(set(options) - absent))
    for name in ("values_are", "vocab_size"):
        if name not in given:
            raise click.UsageError(f"--from {layout} needs {_option(name)}.")
    store = import_lists(
        inputs,
        output,
        _parse_layout(layout, inputs, given),
        _parse_stated(given),
        values=given.get("values", "steps"),
    )
    say_store(store)


def _parse_layout(name: str, inputs: tuple[Path, ...], given: dict[str, Any]) -> Layout:
    if name == "axolotl":
        return Axolotl(alignment=given.get("alignment", "current"))
    if name == "token-logits":
        return TokenLogits()
    first = inputs[0] if inputs[0].is_dir() else inputs[0].parent
    path = given.get("compression_config", first / CONFIG_NAME)
    return DistillKit(compression=Compression.read(path))


def _parse_stated(given: dict[str, Any]) -> Stated:
    described, vocabulary = None, None
    if "tokenizer" in given:
        from softtargets.capture.tokenizer import TransformersTokenizer

        tokenizer = TransformersTokenizer(given["tokenizer"], trust_remote_code=False)
        described, vocabulary = tokenizer.describe(), tokenizer.vocabulary()
    return Stated(
        values=given["values_are"],
        temperature=given.get("temperature"),
        vocab_size=given["vocab_size"],
        teacher=given.get("teacher"),
        tokenizer=described,
        vocabulary=vocabulary,
        license=given.get("license_"),
    )


def _check_given(given: dict[str, Any], where: str, known: tuple[str, ...]) -> None:
    wrong = [_option(name) for name in given if name not in known]
    if wrong:
        raise InputError(
            where,
            expected="options of this layout",
            found=", ".join(wrong),
            next_step="Leave them away; --help says which layout an option is for.",
        )


def _option(name: str) -> str:
    names = {"license_": "--license"}
    return names.get(name, f"--{name.replace('_', '-')}")
