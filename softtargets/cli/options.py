"""The options that say what to build, shared by `build` and `plan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from softtargets.capture import BuildConfig
    from softtargets.capture.teacher import Teacher

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--teacher", required=True, metavar="DIR_OR_ID", help="Model directory, or a Hub id."
    ),
    click.option(
        "--input",
        "inputs",
        required=True,
        multiple=True,
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Text to score: .txt, .jsonl (each also .gz or .zst) or .parquet; more may follow.",
    ),
    click.option("--top-k", default=64, show_default=True, help="Entries kept at each position."),
    click.option(
        "--temperature",
        "temperatures",
        multiple=True,
        default=(1.0,),
        show_default=True,
        help="A temperature at which the tail mass is stored; repeat for more.",
    ),
    click.option(
        "--sequence-length", default=1024, show_default=True, help="Most tokens in a window."
    ),
    click.option(
        "--window",
        "window_kind",
        type=click.Choice(["split", "truncate"]),
        default="split",
        show_default=True,
        help="Cut long documents into windows, or keep the first of each.",
    ),
    click.option(
        "--overlap",
        default=0,
        show_default=True,
        help="Tokens of context that a window repeats from the one before; not trained on again.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["bfloat16", "float16", "float32"]),
        default="bfloat16",
        show_default=True,
        help="Number format the teacher runs in.",
    ),
    click.option(
        "--attention", default="sdpa", show_default=True, help="Attention implementation."
    ),
    click.option(
        "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N, mps."
    ),
    click.option("--revision", help="Branch, tag or commit of a Hub id."),
    click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model."),
    click.option("--text-field", default="text", show_default=True, help="Field with the text."),
    click.option(
        "--id-field", help="Field with a document's id; its number in the file otherwise."
    ),
    click.option(
        "--values",
        type=click.Choice(["steps", "float32"]),
        default="steps",
        show_default=True,
        help="Logits in steps of 1/16 nat, or lossless.",
    ),
    click.option(
        "--compression",
        type=click.Choice(["zstd", "lz4"]),
        default="zstd",
        show_default=True,
        help="Of the shards: zstd is smaller, lz4 is read faster.",
    ),
    click.option(
        "--unit-tokens", default=65_536, show_default=True, help="Tokens of a shard, at least."
    ),
    click.option(
        "--batch-tokens", default=4096, show_default=True, help="Tokens of a forward pass, at most."
    ),
    click.option(
        "--workers",
        default=1,
        show_default=True,
        help="Processes that run units; with several CUDA devices each takes one in turn. On a "
        "CPU one process uses all cores already.",
    ),
    click.argument("more_inputs", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path)),
)


def build_options(command: Command) -> Command:
    """Give a command the options of a build, but for its output."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def parse_build(options: Mapping[str, Any], output: Path) -> tuple[BuildConfig, Teacher]:
    """Return what the options ask for."""
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
        output=output,
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
    return config, teacher
