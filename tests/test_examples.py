"""Every example trains, is stopped, and goes on when it is run again."""

from __future__ import annotations

import json
import os
import runpy
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from examples import arms, comparison, finetune
from examples.catalogues import read_pairs
from softtargets import Store
from softtargets.capture import TeacherConfig, TransformersTeacher, build
from tests.fakes import build_config
from tests.generation.chatbot import save_chatbot
from tests.ranks import run_ranks
from tests.tasks.masked import save_masked_model

EXAMPLES = Path(__file__).parent.parent / "examples"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Store:
    """A store of a teacher that transformers loads, with the tokenizer of that teacher."""
    teacher = TransformersTeacher(TeacherConfig(name=str(tiny_teacher), dtype="float32"))
    return build(build_config(tmp_path_factory.mktemp("built")), teacher).store


def run_example(example: str, arguments: list[str]) -> None:
    """Run an example as Python does, and fail where its process group outlives it.

    A thread of gloo that drops a tensor while Python shuts down ends the process with an abort. It
    happens in few runs of many; that the thread is there happens in all.
    """
    torch.set_num_threads(1)
    sys.argv = [example, *arguments]
    sys.path.insert(0, str(EXAMPLES))
    names = runpy.run_path(str(EXAMPLES / example), run_name="__main__")  # They live on, as there.
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    left = sorted(thread for thread in threads if "gloo" in thread)
    if left:
        sys.exit(f"{example} ends, its {len(names)} names alive, beside threads: {left}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "num_ranks", "last_line"),
    [
        ("plain_torch.py", 1, "step 8, loss"),
        ("plain_torch.py", 2, "step 8, loss"),
        ("with_accelerate.py", 1, "5 steps in this run, loss"),
        ("with_accelerate.py", 2, "1 steps in this run, loss"),
        ("hf_trainer.py", 1, "; step 8, loss"),
        ("hf_trainer.py", 2, "; step 4, loss"),
        ("trl_sft.py", 1, "step 14"),
        ("with_lightning.py", 1, "step 8, loss"),
    ],
)
def test_an_example_trains_and_goes_on(
    built: Store, tmp_path: Path, tiny_teacher: Path, example: str, num_ranks: int, last_line: str
) -> None:
    assert len(built) == 28, "the numbers of steps are of two epochs of 28 windows"
    arguments = [str(built.root), str(tmp_path / "checkpoint")]
    if example == "trl_sft.py":
        arguments.append(str(tiny_teacher))
    how: dict[str, Any] = {"num_ranks": num_ranks}
    stop = {"STOP_AFTER": "3"}
    _, stopped = run_ranks(
        run_example, example, arguments, log=tmp_path / "stopped", variables=stop, **how
    )
    assert (tmp_path / "checkpoint").exists(), stopped
    assert last_line not in stopped
    code, done = run_ranks(run_example, example, arguments, log=tmp_path / "done", **how)
    assert code == 0, done
    assert last_line in done, done


@pytest.mark.slow
def test_an_example_runs_by_the_command_that_its_page_says(built: Store, tmp_path: Path) -> None:
    example = str(EXAMPLES / "plain_torch.py")
    done = subprocess.run(
        [sys.executable, *TORCHRUN, example, str(built.root), str(tmp_path / "checkpoint")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "step 8, loss" in done.stdout


def page_with(directory: Path, *names: str) -> Path:
    """Write a page with a place for each part, and something around them."""
    parts = (f"<!-- {name} -->\nold\n<!-- end of {name} -->\n" for name in names)
    page = directory / "page.md"
    page.write_text(f"first\n{''.join(parts)}last\n")
    return page


@pytest.fixture
def few_mails(tmp_path: Path) -> dict[str, Any]:
    """The options of an example on few mails and a tiny encoder."""
    save_masked_model(tmp_path / "encoder", "Bert", max_position_embeddings=128)
    for kind, text in (("easy-ham", "the cat walked ."), ("spam", "a dog sat here .")):
        (tmp_path / "mails" / kind).mkdir(parents=True)
        for number in range(12):
            mail = f"Subject: {text}\n\n{text * (number + 1)}\n"
            (tmp_path / "mails" / kind / f"{number}.txt").write_text(mail)
    return {one: tmp_path / one for one in ("encoder", "mails", "output")} | {"seeds": 2}


def run_twice(example: str, options: dict[str, Any], logs: Path) -> str:
    """Run an example, and again; return what it printed, the same both times but for progress."""
    arguments = [word for name, one in options.items() for word in (f"--{name}", str(one))]
    said = []
    for time in ("first", "again"):
        log = logs / time
        code, text = run_ranks(run_example, example, arguments, log=log, num_ranks=1)
        assert code == 0, text
        said.append(text)
    assert said[1] in said[0]
    assert "seed 0" in said[0]
    assert "seed 0" not in said[1], "results that are there are taken"
    return said[1]


def rows_of(text: str) -> dict[str, list[list[str]]]:
    """Return the cells of every table's row by what it is called, in order."""
    found: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("|"):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            found.setdefault(name, []).append(cells)
    return found


TWINS = ("student without distillation", "student with distillation")


@pytest.mark.slow
def test_the_example_of_classification_compares_students(
    tmp_path: Path, few_mails: dict[str, Any]
) -> None:
    page = page_with(tmp_path, "classification")
    sizes = {"labelled": 8, "others": 8, "test": 8, "epochs": 1, "page": page}
    said = run_twice("classification.py", few_mails | sizes, tmp_path)
    assert "8 labelled mails, 8 others, and 8 for the test" in said
    rows = rows_of(said)
    figures, shares = (dict(zip(rows[one][0], rows[TWINS[1]][at], strict=True))
                       for at, one in enumerate(("", "share of the teacher's")))  # fmt: skip
    teacher = dict(zip(rows[""][0], rows["teacher"][0], strict=True))
    assert {"accuracy", "macro-F1", "parameters", "bytes on disk", "tokens/s"} <= set(figures)
    share = int(figures["parameters"].replace(",", "")) / int(
        teacher["parameters"].replace(",", "")
    )
    assert shares["parameters"] == f"{100 * share:.1f}%"
    assert rows["accuracy, points"][0][-1] == "2"
    text = page.read_text()
    assert said.strip() in text
    assert "old" not in text
    assert text.startswith("first\n<!-- classification -->")
    assert text.endswith("<!-- end of classification -->\nlast\n")
    assert (tmp_path / "classification.svg").read_text().count("without") == 2


@pytest.mark.slow
def test_the_example_of_distilbert_goes_from_the_teacher_to_classifiers(
    tmp_path: Path, few_mails: dict[str, Any]
) -> None:
    page = page_with(tmp_path, "distilbert", "fine-tuning")
    sizes: dict[str, Any] = {
        "labelled": 4, "store-mails": 12, "teacher-mails": 4, "test": 4, "tune-epochs": 1,
        "student": "teacher[depth=1]", "eval-share": 0.3,
        "page": page,
    }  # fmt: skip
    said = run_twice("distilbert.py", few_mails | sizes, tmp_path)
    rows = rows_of(said)
    teacher = dict(zip(rows[""][0], rows["teacher"][0], strict=True))
    # An estimate, by the draws and in the steps of what is stored.
    assert abs(float(teacher["KL to the teacher"])) < 0.01
    assert teacher["top-1 agreement"] == "100.0%"
    for row in ("teacher", *TWINS):
        of_masked, of_classifier = rows[row][0], rows[row][-1 if row == "teacher" else 2]
        assert len(of_masked) == len(rows[""][0])
        assert len(of_classifier) == len(rows[""][1])
    for name in ("distilbert", "fine-tuning"):
        assert (tmp_path / f"{name}.svg").is_file()
    assert "old" not in page.read_text()


@pytest.mark.slow
def test_the_example_of_tinybert_goes_through_both_stages_and_leaves_parts_out(
    tmp_path: Path, few_mails: dict[str, Any]
) -> None:
    page = page_with(tmp_path, "tinybert")
    sizes: dict[str, Any] = {
        "general": 8, "labelled": 8, "others": 4, "test": 4, "epochs": 2, "general-epochs": 1,
        "seeds": 1, "page": page,
    }  # fmt: skip
    said = run_twice("tinybert.py", few_mails | sizes, tmp_path)
    rows = rows_of(said)
    classifiers = [name for name, arm in arms.ARMS.items() if arm.short]
    for row in ("teacher", *classifiers):
        assert len(rows[row][0]) == len(rows[""][0]), "figures"
    for row in classifiers:
        assert len(rows[row][1]) == len(rows["share of the teacher's"][0]), "shares"
    for one, other in arms.PAIRS:
        assert [cells[-1] for cells in rows[f"{one}, less {other}"]] == ["1", "1"], "two figures"
    # The tiny BERT has 2 layers, 4 heads and a width of 32. TinyBERT learns from both layers.
    general, relations = rows["`tinybert-general`"][0], rows["`minilm`"][0]
    assert general[2] == f"{2 * 4 * 2 * 512:,}"
    assert relations[2] == f"{3 * 4 * 2 * 512:,}"
    assert 0 < int(relations[0]) < int(general[0])
    seed = tmp_path / "output" / "seed-0"
    without = {
        name: json.loads((seed / name / "train.json").read_text())["decides"]["layers"]
        for name in ("tinybert-task-without-attention", "tinybert-task-without-hidden-states")
    }
    assert [own["attention_weight"] for own in without.values()] == [0, 1]
    assert [own["hidden_weight"] for own in without.values()] == [1, 0]
    assert "old" not in page.read_text()
    assert (tmp_path / "tinybert.svg").read_text().count("attention") == 2


def save_catalogue(path: Path, messages: dict[str, str]) -> None:
    """Write a catalogue of gettext, as msgfmt does: sorted, and without a table of hashes."""
    texts = {"": "Content-Type: text/plain; charset=UTF-8\n"} | messages
    originals = sorted(texts)
    tables, content = b"", b""
    start = 28 + 16 * len(originals)
    for text in (*originals, *(texts[one] for one in originals)):
        tables += struct.pack("<II", len(text.encode()), start + len(content))
        content += text.encode() + b"\0"
    number = len(originals)
    head = struct.pack("<7I", 0x950412DE, 0, number, 28, 28 + 8 * number, 0, start)
    path.write_bytes(head + tables + content)


def test_pairs_are_of_the_texts_of_catalogues(tmp_path: Path) -> None:
    messages = {
        "Open this file": "Diese Datei oeffnen",
        "open this file!": "Oeffne diese Datei!",
        "menu\x04Save the file": "Speichern der Datei",
        "_Close the file": "Datei schliessen jetzt",
        "Two words": "Zwei neue Woerter",
        "same as that": "same as that",
    }
    save_catalogue(tmp_path / "one.mo", messages)
    (tmp_path / "two.mo").write_bytes((tmp_path / "one.mo").read_bytes())
    found = {one.source: one.target for one in read_pairs(tmp_path)}
    assert found == {
        "Open this file": "Diese Datei oeffnen", "Save the file": "Speichern der Datei",
    }  # fmt: skip
    with pytest.raises(SystemExit, match="found none"):
        read_pairs(tmp_path / "nowhere")


@pytest.mark.slow
def test_the_example_of_translation_compares_levels(tmp_path: Path) -> None:
    things = ("file", "door", "window", "book", "page", "mail", "store", "model")
    messages = {f"Open the {one}": f"Oeffne nun {one}" for one in things}
    messages |= {f"Close the {one} now": f"Schliesse nun {one}" for one in things}
    (tmp_path / "catalogues").mkdir()
    save_catalogue(tmp_path / "catalogues" / "all.mo", messages)
    page = page_with(tmp_path, "translation")
    options: dict[str, Any] = {
        "catalogues": tmp_path / "catalogues", "output": tmp_path / "output", "page": page,
        "teacher-pairs": 12, "pairs": 8, "test": 4, "vocabulary": 300,
        "teacher-width": 32, "teacher-epochs": 20, "steps": 2, "seeds": 1,
    }  # fmt: skip
    said = run_twice("translation.py", options, tmp_path)
    rows = rows_of(said)
    assert "from 12 pairs, and its students from 8 of these. There were 4 for the test" in said
    for level in ("word level", "sequence level", "both levels"):
        figures, shares, stored = rows[level]
        assert len(figures) == len(rows["teacher"][0])
        assert len(shares) == len(rows["share of the teacher's"][0])
        assert float(stored[0]) > 0
        assert len(rows[f"{level}, less student without distillation"]) == 4
    assert said.strip() in page.read_text()
    assert (tmp_path / "translation.svg").is_file()


@pytest.mark.slow
def test_the_example_of_chat_compares_answers(tmp_path: Path, tiny_teacher: Path) -> None:
    talks = "".join(f"- - Who is number {one}?\n  - Alice.\n  - Thanks.\n" for one in range(12))
    (tmp_path / "talks").mkdir()
    (tmp_path / "talks" / "alice.yml").write_text(f"conversations:\n{talks}")
    page = page_with(tmp_path, "chat")
    options: dict[str, Any] = {
        "conversations": tmp_path / "talks", "output": tmp_path / "output", "page": page,
        "teacher": save_chatbot(tiny_teacher, tmp_path / "chatbot"), "answer-tokens": 4,
        "talks": 8, "test": 4, "steps": 2, "seeds": 1,
    }  # fmt: skip
    said = run_twice("chat.py", options, tmp_path)
    rows = rows_of(said)
    assert "8 conversations to learn from, and 4 for the test" in said
    # Stored in bfloat16, measured in float32, and an estimate by the draws.
    assert all(abs(float(rows["teacher"][0][place])) < 0.1 for place in (0, 2))
    own, alone = "text of the teacher's answers", "student without distillation"
    assert len(rows[f"{own}, less {alone}"]) == 4
    assert said.strip() in page.read_text()
    assert (tmp_path / "chat.svg").is_file()


def test_a_comparison_is_of_pairs() -> None:
    values = {
        comparison.TEACHER: [0.8], comparison.ALONE: [0.4, 0.6], comparison.DISTILLED: [0.6, 0.56],
    }  # fmt: skip
    rows: comparison.Rows = {}
    for row, accuracies in values.items():
        for one in accuracies:
            sizes = {"parameters": 10.0, "bytes on disk": 40.0, "tokens/s": 1 / one}
            comparison.add_values(rows, row, {"accuracy": one}, sizes)
    assert "| accuracy, points | +8.0 | -4.0 | +20.0 | 2 |" in comparison.gain_table(rows)
    figures = rows_of(comparison.figure_table(rows))
    assert figures[TWINS[0]][0][0] == "50.0% (40.0% to 60.0%)"
    shares = rows_of(comparison.ratio_table(rows, ["accuracy"]))
    assert shares[TWINS[1]][0][0] == "100.0%"
    assert shares[TWINS[1]][0][2] == "1.4x (1.3x to 1.4x)"
    assert shares[TWINS[1]][0][3] == "72.5% (70.0% to 75.0%)"


def test_a_classifier_is_judged_by_accuracy_and_macro_f1() -> None:
    answers, labels = torch.tensor([1, 1, 0, 0, 0]), torch.tensor([1, 0, 0, 0, 0])
    found = finetune.quality_of(answers, labels)
    assert found["accuracy"] == pytest.approx(0.8)
    assert found["macro-F1"] == pytest.approx((6 / 7 + 2 / 3) / 2)


PARTS = {
    "arms.py", "catalogues.py", "commands.py", "comparison.py", "conversations.py", "finetune.py",
    "layer_bytes.py", "mails.py", "masked_teacher.py", "students.py", "translation_quality.py",
    "translator.py",
}  # fmt: skip
"""What the examples share."""


def test_every_example_is_tested() -> None:
    source = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert path.name in PARTS or f'"{path.name}"' in source
