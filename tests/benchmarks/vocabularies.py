"""What a target takes for teachers of small and large vocabularies, on the same real text.

    python -m tests.benchmarks.vocabularies TEACHER[:OUTPUTS]... [--targets 20000]

builds a store of each selection with each teacher, a directory of transformers, and prints a table
in Markdown. The text is the language reference that every CPython carries. With OUTPUTS the teacher
is cut to its first so many outputs, and the text to the tokens among them: a stand-in for a teacher
of that vocabulary whose weights are not at hand.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

from transformers import AutoModelForCausalLM, AutoTokenizer

from softtargets import Store
from softtargets.capture import (
    BuildConfig,
    Corpus,
    Hybrid,
    TeacherConfig,
    TopK,
    TransformersTeacher,
    Windowing,
    build,
)
from softtargets.capture.keep.selection import Selection
from softtargets.report.number_texts import bytes_text

SEQUENCE_LENGTH = 1024
SELECTIONS: tuple[tuple[str, Selection], ...] = (
    ("default: 16 entries, 16 draws", Hybrid()),
    ("top-k 64", TopK(k=64)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    vocab_size: int
    name: str
    selection: str
    num_targets: int
    bytes_per_target: float
    vocabulary_bytes: int

    def __str__(self) -> str:
        return (
            f"| {self.name} | {self.vocab_size:,} | {self.selection} | {self.num_targets:,} "
            f"| {self.bytes_per_target:.1f} | {bytes_text(self.vocabulary_bytes)} |"
        )


def measure(teacher: Path, num_outputs: int | None, num_targets: int) -> Iterator[Row]:
    """Build a store of every selection and yield what it takes."""
    name = teacher.name if num_outputs is None else f"{teacher.name}, cut"
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        corpus = write_tokens(directory / "corpus.jsonl", teacher, num_outputs, num_targets)
        if num_outputs is not None:
            teacher = cut(teacher, directory / "cut", num_outputs)
        loaded = TransformersTeacher(TeacherConfig(name=str(teacher)))
        for number, (label, selection) in enumerate(SELECTIONS):
            config = BuildConfig(
                corpus=Corpus(paths=(corpus,), input_ids_field="input_ids"),
                output=directory / f"store-{number}",
                windowing=Windowing(sequence_length=SEQUENCE_LENGTH),
                selection=selection,
            )
            yield row_of(build(config, loaded).store, name, label)


def row_of(store: Store, name: str, selection: str) -> Row:
    """Return what a store takes."""
    vocabulary = store.manifest.vocabulary
    assert vocabulary is not None
    return Row(
        vocab_size=store.targets.vocab_size,
        name=name,
        selection=selection,
        num_targets=store.num_positions,
        bytes_per_target=store.num_bytes / store.num_positions,
        vocabulary_bytes=vocabulary.num_bytes,
    )


def write_tokens(path: Path, teacher: Path, num_outputs: int | None, num_targets: int) -> Path:
    """Write the text as token ids, a window in each line, with so many targets or a few more."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    # What the tokenizer begins every text with: some teachers predict badly without it.
    prefix: list[int] = tokenizer("")["input_ids"]
    num_new = SEQUENCE_LENGTH - len(prefix)
    num_windows = -(-num_targets // (SEQUENCE_LENGTH - 1))
    ids: list[int] = []
    for name in sorted(topics):
        own = tokenizer(topics[name], add_special_tokens=False)["input_ids"]
        ids += [one for one in own if num_outputs is None or one < num_outputs]
        if len(ids) >= num_windows * num_new:
            break
    windows = (prefix + ids[at * num_new :][:num_new] for at in range(num_windows))
    path.write_text("".join(json.dumps({"input_ids": one}) + "\n" for one in windows))
    return path


def cut(teacher: Path, directory: Path, num_outputs: int) -> Path:
    """Write a teacher with fewer outputs and input ids, and the tokenizer as it is."""
    model = AutoModelForCausalLM.from_pretrained(teacher)
    model.resize_token_embeddings(num_outputs)
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(teacher).save_pretrained(directory)
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teachers", nargs="+", metavar="TEACHER[:OUTPUTS]")
    parser.add_argument("--targets", type=int, default=20_000)
    arguments = parser.parse_args()
    print("| teacher | V | kept | targets | bytes per target | `vocabulary.parquet` |")
    print("|---|---:|---|---:|---:|---:|", flush=True)
    for text in arguments.teachers:
        path, _, outputs = text.partition(":")
        for row in measure(Path(path), int(outputs) if outputs else None, arguments.targets):
            print(row, flush=True)


if __name__ == "__main__":
    main()
