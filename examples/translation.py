"""Distil a translator at the level of words and of sequences, as Kim and Rush (2016) did.

    python -m examples.translation --catalogues /usr/share/locale/de/LC_MESSAGES --output DIR

The pairs are the messages of Debian's programs and their German translations, in the catalogues of
gettext. Every Debian has some, and each package that is installed brings its own.

1. A Marian of 2 and 2 layers learns from the references. This is the teacher.
2. `softtargets generate --num-beams 5` has it translate the sources of the same pairs.
3. `softtargets build --task seq2seq` makes a store of the references, and one of its translations.
4. `softtargets train --baseline` makes two students of each store and seed. All of a seed begin
   with the same weights and take as many steps. So there are students of the references alone, of
   the teacher's distributions (the word level), of its translations (the sequence level), and of
   its distributions on its translations (both).

The same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from examples.catalogues import Pair, read_pairs
from examples.commands import run_command
from examples.comparison import (
    ALONE,
    TEACHER,
    Rows,
    add_values,
    difference_table,
    figure_table,
    markdown,
    quality_names,
    ratio_table,
    results_of,
    seeds_text,
    show_part,
)
from examples.mails import write_records
from examples.translation_quality import measure_translator
from examples.translator import (
    MOST_TOKENS,
    MOST_WRITTEN,
    pair_tokenizer,
    train_translator,
    translator_config,
)
from softtargets.store import Store

NAME = "translation"
NUM_BEAMS = 5
WORDS, SEQUENCES, BOTH = "word level", "sequence level", "both levels"
_STUDENTS = {ALONE: "without", WORDS: "words", SEQUENCES: "sequences", BOTH: "both"}
"""What they are called in the plot."""
_FIELDS = ("--text-field", "en", "--target-field", "de")
_PAIRS = ((WORDS, ALONE), (SEQUENCES, ALONE), (BOTH, ALONE), (BOTH, SEQUENCES))


def make_teacher(pairs: Sequence[Pair], directory: Path, options: argparse.Namespace) -> Path:
    """Return the directory of a translator that was trained on pairs."""
    if not (directory / "tokenizer_config.json").is_file():
        tokenizer = pair_tokenizer(pairs, options.vocabulary)
        config = translator_config(tokenizer, width=options.teacher_width, layers=2)
        model = train_translator(config, tokenizer, pairs, epochs=options.teacher_epochs)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory


def write_pairs(path: Path, pairs: Sequence[Pair]) -> Path:
    """Write pairs as records that the commands read; return the path."""
    return write_records(path, [{"en": one.source, "de": one.target} for one in pairs])


def build_stores(teacher: Path, pairs: Path, output: Path) -> dict[str, Path]:
    """Build a store of the references, and one of the teacher's translations; return both."""
    read = ("--teacher", teacher, "--dtype", "float32", "--input")
    own = output / "own.jsonl"
    beams = ("--num-beams", NUM_BEAMS, "--max-new-tokens", MOST_WRITTEN)
    run_command("generate", *read, pairs, *_FIELDS, *beams, "--output", own)
    stores = {}
    for name, path in (("references", pairs), ("own", own)):
        stores[name] = output / f"{name}-store"
        cut = ("--window", "truncate", "--sequence-length", MOST_TOKENS)
        run_command(
            "build", "--task", "seq2seq", *read, path, *_FIELDS, *cut, "--output", stores[name]
        )
    return stores


def train_students(
    stores: Mapping[str, Path], teacher: Path, output: Path, seed: int, steps: int
) -> dict[str, Path]:
    """Train the four students of a seed; return their directories."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    translator_config(tokenizer, width=48, layers=1).save_pretrained(output / "student")
    found = {}
    for name, (alone, distilled) in {
        "references": (ALONE, WORDS),
        "own": (SEQUENCES, BOTH),
    }.items():
        directory = output / f"{name}-{seed}"
        run_command(
            "train", stores[name], "--student", output / "student" / "config.json",
            "--teacher", teacher, "--output", directory, "--steps", steps, "--batch-size", 32,
            "--lr", "4e-3", "--eval-share", 0, "--seed", seed, "--baseline",
        )  # fmt: skip
        found |= {alone: directory / "baseline", distilled: directory}
    return found


def stored_bytes(stores: Mapping[str, Path], output: Path) -> dict[str, Any]:
    """Return the bytes per token of a target that each way keeps, and the vocabulary."""
    opened = {name: Store.open(path) for name, path in stores.items()}
    own = output / "own.jsonl"
    tokens = sum(json.loads(line)["num_tokens"] for line in own.read_text().splitlines())
    per_token = {
        WORDS: opened["references"].num_bytes / opened["references"].num_positions,
        SEQUENCES: own.stat().st_size / tokens,
        BOTH: opened["own"].num_bytes / opened["own"].num_positions,
    }
    return {"bytes": per_token, "vocabulary": opened["own"].targets.vocab_size}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of teacher and students, and what was stored for these."""
    output, pairs = options.output, read_pairs(options.catalogues)
    held, of_teacher = pairs[: options.test], pairs[options.test :][: options.teacher_pairs]
    used = of_teacher[: options.pairs]
    teacher = make_teacher(of_teacher, output / "teacher", options)
    stores = build_stores(teacher, write_pairs(output / "pairs.jsonl", used), output)
    tested = write_pairs(output / "held.jsonl", held)
    rows: Rows = {}
    add_values(rows, TEACHER, measure_translator(teacher, held, tested, output / "teacher-words"))
    for seed in range(options.seeds):
        students = train_students(stores, teacher, output, seed, options.steps)
        for row in _STUDENTS:
            place = output / "words" / f"seed-{seed}-{_STUDENTS[row]}"
            add_values(rows, row, measure_translator(students[row], held, tested, place))
            print(f"seed {seed}, {row}: {100 * rows[row]['BLEU, beams'][-1]:.1f} BLEU", flush=True)
    numbers = {"of_teacher": len(of_teacher), "used": len(used), "held": len(held)}
    return {"rows": rows, "seeds": options.seeds} | numbers | stored_bytes(stores, output)


def section(results: dict[str, Any]) -> str:
    """Return the tables, with what they are of."""
    rows, vocabulary = results["rows"], results["vocabulary"]
    what = (
        f"The teacher learned from {results['of_teacher']:,} pairs, and its students from "
        f"{results['used']:,} of these. There were {results['held']:,} for the test. Beam search "
        f"had {NUM_BEAMS} beams. {seeds_text(results['seeds'])}"
    )
    changes = (difference_table(rows, name, _PAIRS) for name in quality_names(rows))
    whole = {"float32": 4 * vocabulary, "float16": 2 * vocabulary}
    stored = markdown(
        ("stored for", "bytes per token", *(f"of {vocabulary:,} logits in {one}" for one in whole)),
        (
            (
                row,
                f"{size:.1f}",
                *(f"{100 * size / all_bytes:.1f}%" for all_bytes in whole.values()),
            )
            for row, size in results["bytes"].items()
        ),
    )
    ratios = ratio_table(rows, quality_names(rows), _STUDENTS)
    return "\n\n".join((what, figure_table(rows), ratios, *changes, stored))


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("catalogues", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--teacher-pairs", type=int, default=10_000, help="that it learns from")
    parser.add_argument("--pairs", type=int, default=10_000, help="of these, for the students")
    parser.add_argument("--test", type=int, default=400, help="pairs for the comparison")
    parser.add_argument("--vocabulary", type=int, default=2000, help="tokens of both languages")
    parser.add_argument("--teacher-width", type=int, default=128)
    parser.add_argument("--teacher-epochs", type=int, default=6, help="over its pairs")
    parser.add_argument("--steps", type=int, default=1000, help="of a student, of 32 pairs")
    parser.add_argument("--seeds", type=int, default=3, help="of four students each")
    parser.add_argument("--page", type=Path, help="page to put the tables and the plot into")
    return parser.parse_args()


def main() -> None:
    """Run all of it, print the tables, and write them into a page."""
    options = parse_options()
    results = results_of(options, compare)
    title = "Translations that nobody was trained on"
    show_part(options.page, NAME, section(results), results["rows"], title, _STUDENTS)


if __name__ == "__main__":
    main()
