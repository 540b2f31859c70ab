"""`softtargets augment`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from softtargets.cli.options import DEVICE, DTYPE, REVISION, TRUST_REMOTE_CODE, teacher_config
from softtargets.cli.paths import LocalPath
from softtargets.cli.terminal import echo
from softtargets.errors import CorpusError, InputError
from softtargets.places.local_files import write_file
from softtargets.task_registry import find_task
from softtargets.texts import plural, shortened


@click.command("augment")
@click.option(
    "--teacher",
    required=True,
    metavar="DIR_OR_ID",
    help="Masked language model that says what may stand in a word's place.",
)
@click.option(
    "--input",
    "source",
    required=True,
    type=LocalPath("a local file", exists=True, dir_okay=False),
    help="File of JSON lines.",
)
@click.option(
    "--output",
    required=True,
    type=LocalPath("a local file to write"),
    help="File of JSON lines: each record, and after it its copies.",
)
@click.option("--text-field", default="text", help="Field that has the text.")
@click.option("--copies", default=20, help="Copies of each text.")
@click.option("--probability", default=0.4, help="With which each word is replaced.")
@click.option("--candidates", default=15, help="Likeliest words, of which one is drawn.")
@click.option("--seed", default=0, help="Another seed replaces other words.")
@DTYPE
@DEVICE
@REVISION
@TRUST_REMOTE_CODE
def augment_command(
    teacher: str,
    source: Path,
    output: Path,
    text_field: str,
    copies: int,
    probability: float,
    candidates: int,
    seed: int,
    **options: Any,
) -> None:
    """Write a corpus with copies of each text in which words are replaced.

    A masked language model says what else may stand there, as in TinyBERT. Every other field of a
    record is as it was, its label too.
    """
    if output.exists():
        raise InputError(
            f"--output {output}",
            expected="nothing yet",
            found="a file or directory",
            next_step="Choose another one.",
        )
    records = list(_records(source, text_field))
    task: Any = find_task("masked-lm")
    augmenter = task.augmenter(
        teacher_config(teacher, **options),
        copies=copies,
        probability=probability,
        candidates=candidates,
        seed=seed,
    )
    lines = []
    for record in records:
        texts = [record[text_field], *augmenter.copies(record[text_field])]
        lines += [json.dumps({**record, text_field: one}, ensure_ascii=False) for one in texts]
    write_file(output, "".join(f"{line}\n" for line in lines).encode())
    echo(f"{output}: {plural(len(lines), 'record')} of {len(records):,}.")


def _records(source: Path, text_field: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a file, which have a text each.

    Raises:
        CorpusError: a line is no such record.
    """
    for number, line in enumerate(source.read_text().splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            record = f"{error}"
        if not isinstance(record, dict) or not isinstance(record.get(text_field), str):
            raise CorpusError(
                f"{source}, line {number}",
                expected=f"a JSON object with a text in field '{text_field}'",
                found=shortened(f"{record!r}"),
                next_step="Mend the line, or name another field with --text-field.",
            )
        yield record
