"""The options that say what to build, shared by `build` and `plan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from softtargets.cli.engine_option import ENGINE_ARG
from softtargets.cli.hidden_options import LAYER_OPTIONS, parse_layers
from softtargets.cli.paths import CORPUS, LocalPath
from softtargets.cli.selection_options import SELECTION_OPTIONS, parse_selection
from softtargets.cli.server_options import SERVER_OPTIONS
from softtargets.cli.task_options import TASK_OPTIONS, parse_task
from softtargets.errors import InputError

if TYPE_CHECKING:
    from softtargets.capture import BuildConfig, CaptureTask, TeacherConfig
    from softtargets.capture.build_config import AnyCorpus
    from softtargets.capture.teacher import Teacher

Command = TypeVar("Command", bound=Callable[..., Any])

DTYPE = click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    default="bfloat16",
    help="Number format in which the teacher runs.",
)
DEVICE = click.option(
    "--device",
    default="auto",
    help="Where the teacher runs: auto, cpu, cuda, cuda:N or mps.",
)
WORKERS = click.option(
    "--workers",
    default=1,
    help="Processes that run units. With several CUDA devices each takes one in turn. On a CPU one "
    "process uses all cores already.",
)
REVISION = click.option("--revision", help="Branch, tag or commit of a teacher on the Hub.")
TRUST_REMOTE_CODE = click.option(
    "--trust-remote-code", is_flag=True, help="Run the code that comes with the model."
)

TEACHER_OPTIONS = (
    click.option(
        "--teacher",
        required=True,
        metavar="DIR_OR_ID",
        help="Directory of a model, or its id on the Hugging Face Hub. Or a GGUF file, run by "
        "transformers as gguf:FILE or by llama.cpp as llama:FILE. Or vllm:DIR_OR_ID to run a model "
        "by vLLM in this process. Or http://host:port of a server of vLLM or SGLang that runs the "
        "model.",
    ),
    *SERVER_OPTIONS,
    ENGINE_ARG,
    *TASK_OPTIONS,
    DTYPE,
    click.option(
        "--attention",
        default="sdpa",
        help="Attention implementation of transformers.",
    ),
    DEVICE,
    click.option(
        "--device-map",
        metavar="auto|JSON",
        help="Spread a model that does not fit one device over all, the CPU and the disk. Or say "
        'where each module is: \'{"model": 0, "lm_head": "cpu"}\'.',
    ),
    click.option(
        "--offload-folder",
        metavar="DIR",
        help="Where --device-map keeps weights on disk that it cannot read from the model's files.",
    ),
    REVISION,
    TRUST_REMOTE_CODE,
)
"""Which model, and how it is run."""

CORPUS_OPTIONS = (
    click.option(
        "--input",
        "inputs",
        multiple=True,
        metavar="FILE",
        type=CORPUS,
        help="File to read: .txt, .jsonl (each also .gz or .zst) or .parquet. Or a pattern such as "
        "'data/*.jsonl'. Or a URL of them, such as 's3://bucket/part-*.jsonl'. More may follow.",
    ),
    click.option(
        "--dataset",
        metavar="DIR_OR_ID",
        help="Dataset to read instead of --input. It is a directory of save_to_disk, or a Hub id, "
        "which is streamed.",
    ),
    click.option("--split", default="train", help="Split of the --dataset."),
    click.option("--dataset-config", help="Configuration of a --dataset on the Hub."),
    click.option("--dataset-revision", help="Branch, tag or commit of a --dataset on the Hub."),
    click.option("--text-field", default="text", help="Field that has the text."),
    click.option(
        "--input-ids-field",
        help="Field that has token ids of the teacher's tokenizer, if records have no text.",
    ),
    click.option(
        "--messages-field", help="Field that has a conversation, if records have no text."
    ),
    click.option("--tools-field", help="Field that has the tools of a conversation."),
    click.option(
        "--chat-template",
        type=LocalPath("a local file", exists=True, dir_okay=False),
        help="File with a Jinja template to use instead of the tokenizer's own.",
    ),
    click.option(
        "--id-field",
        help="Field that has a document's id. By default its number in the file is taken.",
    ),
    click.option(
        "--metadata-field",
        "metadata_fields",
        multiple=True,
        help="Field to keep beside a document's id. Repeat for more.",
    ),
    click.option(
        "--on-invalid",
        type=click.Choice(["stop", "skip"]),
        default="stop",
        help="Whether to stop at a record that cannot be read, or to skip and count it.",
    ),
    click.argument("more_inputs", metavar="[FILE]...", nargs=-1, type=CORPUS),
)
"""What is read, and which fields of a record are meant."""

_BUILD_OPTIONS = (
    *SELECTION_OPTIONS,
    click.option(
        "--temperature",
        "temperatures",
        multiple=True,
        default=(1.0,),
        help="Temperature at which to store the tail mass. Repeat for more.",
    ),
    click.option("--sequence-length", default=1024, help="Most tokens of a window."),
    click.option(
        "--window",
        "window_kind",
        type=click.Choice(["split", "truncate", "pack"]),
        default="split",
        help="split: cut long documents into windows. truncate: keep the first window of each. "
        "pack: put short documents into one window, where the teacher reads each by itself.",
    ),
    click.option(
        "--overlap",
        default=0,
        help="Tokens of context that each window repeats from the one before. They are not trained "
        "on again.",
    ),
    click.option(
        "--compile",
        is_flag=True,
        help="Run the decoder through torch.compile, which takes minutes at the start. Its "
        "rounding differs, so it is part of the fingerprint.",
    ),
    click.option(
        "--train-on",
        type=click.Choice(["assistant", "all"]),
        default="assistant",
        help="Which tokens of a conversation are targets.",
    ),
    click.option(
        "--values",
        type=click.Choice(["steps", "float32"]),
        default="steps",
        help="steps: kept logits in steps of 1/16 nat, and drawn ones in steps of 1/64. float32: "
        "lossless.",
    ),
    *LAYER_OPTIONS,
    click.option(
        "--compression",
        type=click.Choice(["zstd", "lz4"]),
        default="zstd",
        help="Compression of the shards. zstd makes them smaller, lz4 is read faster.",
    ),
    click.option("--unit-tokens", default=65_536, help="Fewest tokens of a shard."),
    click.option("--batch-tokens", default=4096, help="Most tokens of a forward pass."),
    WORKERS,
    click.option(
        "--reference",
        metavar="DIR_OR_ID",
        help="The same model for transformers. How far the teacher's engine is from it is measured "
        "on a few windows, and the manifest says so.",
    ),
)


_AS_IN_CONFIG = (
    "temperatures", "values", "label_logits", "layer_rows", "layer_values", "compression",
    "unit_tokens", "batch_tokens", "workers",
)  # fmt: skip
"""Options that BuildConfig has by the same names."""


def build_options(command: Command) -> Command:
    """Give a command the options of a build, but for its output."""
    return with_options(TEACHER_OPTIONS, CORPUS_OPTIONS, _BUILD_OPTIONS)(command)


def with_options(*groups: Sequence[Callable[[Any], Any]]) -> Callable[[Command], Command]:
    """Return what gives a command some groups of options, in their order."""

    def give(command: Command) -> Command:
        for option in reversed([one for group in groups for one in group]):
            command = option(command)
        return command

    return give


def teacher_config(name: str, **options: Any) -> TeacherConfig:
    """Return which model of transformers is meant; it is to show no bars of its own."""
    from transformers.utils import logging as transformers_logging

    from softtargets.capture import TeacherConfig

    transformers_logging.disable_progress_bar()
    return TeacherConfig(name=name, **options)


def parse_teacher(options: Mapping[str, Any]) -> tuple[CaptureTask, Teacher]:
    """Return the task that the options ask for, and its teacher."""
    of_teacher = (
        *("revision", "dtype", "attention", "device", "device_map", "offload_folder"),
        *("trust_remote_code", "compile", "tensor_parallel", "tokenizer", "requests", "patience"),
        "engine_arg",
    )
    given = {name: options[name] for name in of_teacher if name in options}
    named = teacher_config(options["teacher"], **given)
    task = parse_task(options, named)
    return task, task.teacher(named)


def parse_build(options: Mapping[str, Any]) -> tuple[BuildConfig, Teacher]:
    """Return what the options ask for."""
    from softtargets.capture import BuildConfig, Windowing

    task, teacher = parse_teacher(options)
    config = BuildConfig(
        task=task,
        corpus=parse_corpus(options),
        windowing=Windowing(
            sequence_length=options["sequence_length"],
            kind=options["window_kind"],
            overlap=options["overlap"],
        ),
        selection=parse_selection(options, teacher.tokenizer),
        reference=_parse_reference(options),
        **parse_layers(options["hidden_states"], options["rerun_layers"]),
        **{name: options[name] for name in _AS_IN_CONFIG},
    )
    return config, teacher


def _parse_reference(options: Mapping[str, Any]) -> TeacherConfig | None:
    """Return the model that an engine is compared with, run as the teacher is."""
    if options["reference"] is None:
        return None
    names = ("dtype", "device", "trust_remote_code")
    return teacher_config(options["reference"], **{name: options[name] for name in names})


def parse_corpus(options: Mapping[str, Any]) -> AnyCorpus:
    """Return what is to be read."""
    from softtargets.capture import Corpus, DatasetCorpus

    paths = (*options["inputs"], *options["more_inputs"])
    dataset = options["dataset"]
    if bool(paths) == (dataset is not None):
        raise InputError(
            "--input, --dataset",
            expected="one of them",
            found="both" if paths else "neither",
            next_step="Pass the files to score, or a dataset.",
        )
    template = options["chat_template"]
    names = ("text_field", "input_ids_field", "messages_field", "tools_field", "train_on")
    every = (*names, "id_field", "metadata_fields", "on_invalid")
    fields = {name: options[name] for name in every if name in options}
    fields["chat_template"] = None if template is None else template.read_text()
    if dataset is None:
        return Corpus(paths=paths, **fields)
    return DatasetCorpus(
        dataset=dataset,
        split=options["split"],
        config=options["dataset_config"],
        revision=options["dataset_revision"],
        **fields,
    )
