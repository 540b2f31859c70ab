"""A first user's day with a teacher of 262,144 outputs: from conversations to students.

    python -m tests.trial DIRECTORY

Each step is a process of its own. Prints a line for each with its time and the most memory it had,
and exits with 1 if a step fails, needs 6 GB or more, or does not do what is claimed. Takes two
cores a few minutes, and some more the first time, when the teacher is converted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from softtargets import Store
from softtargets.report.number_texts import bytes_text
from tests.report.chromium import open_browser
from tests.trial.corpus import CHAT_TEMPLATE, write_corpora
from tests.trial.gemma import gemma_directory
from tests.trial.steps import Claim, Step, run_step

VOCAB_SIZE = 262_144
SEQUENCE_LENGTH = "512"
NUM_RESCORED = "20"


def command(name: str, *arguments: str | Path) -> list[str | Path]:
    """Return arguments of Python that run a command of softtargets."""
    return ["-m", "softtargets", name, *arguments]


def says(*texts: str) -> Claim:
    """Return the claim that a step prints some texts."""

    def claim(output: str) -> str | None:
        missing = [text for text in texts if text not in " ".join(output.split())]
        return f"not said: {missing}" if missing else None

    return claim


def steps(directory: Path) -> Iterator[Step]:
    """Yield the steps in the order in which a user takes them."""
    chats_input, texts_input = write_corpora(directory)
    chats, texts = directory / "chats", directory / "texts"
    yield Step(name="teacher", arguments=["-m", "tests.trial.gemma"])
    teacher = gemma_directory()
    common: list[str | Path] = [
        "--teacher", teacher, "--sequence-length", SEQUENCE_LENGTH, "--window", "pack",
    ]  # fmt: skip
    chat: list[str | Path] = [
        *common, "--input", chats_input, "--output", chats, "--messages-field", "messages",
        "--tools-field", "tools", "--chat-template", CHAT_TEMPLATE,
    ]  # fmt: skip
    yield Step(
        name="plan",
        arguments=command("plan", *chat, "--json"),
        claim=_planned,
    )
    yield Step(
        name="build chats",
        arguments=command("build", *chat),
        claim=lambda _: _is_store(chats, "listed"),
    )
    yield Step(
        name="build texts",
        arguments=command("build", *common, "--input", texts_input, "--output", texts),
        claim=lambda _: _is_store(texts, "all"),
    )
    yield Step(
        name="verify and rescore",
        arguments=command("verify", chats, "--rescore", NUM_RESCORED, "--teacher", teacher),
        claim=says("targets checked"),
    )
    size = "size " + bytes_text(sum(one.stat().st_size for one in _files(chats)))
    yield Step(name="info", arguments=command("info", chats), claim=says(size))
    page = directory / "report.html"
    yield Step(name="report", arguments=command("report", chats, "--output", page))
    if os.environ.get("CI") or _has_browser():
        yield Step(name="report on a phone", arguments=["-m", "tests.trial.phone", page])
    else:
        print("report on a phone: left out, as there is no browser")
    yield _export(chats, directory / "plain", "plain")
    yield _export(chats, directory / "distillkit", "distillkit", "--without-draws")
    for trainer in ("plain", "trainer", "trl"):
        for run in ("whole", "resumed"):
            yield Step(
                name=f"train {trainer} {run}",
                arguments=[
                    "-m", "tests.trial.training", trainer, run, directory / f"train-{trainer}",
                    chats, texts, teacher,
                ],
            )  # fmt: skip


def _has_browser() -> bool:
    with open_browser() as browser:
        return browser is not None


def _export(store: Path, output: Path, layout: str, *options: str) -> Step:
    return Step(
        name=f"export to {layout}",
        arguments=command("export", store, output, "--to", layout, *options),
        claim=lambda _: None if _files(output) else f"nothing in {output}",
    )


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def _planned(output: str) -> str | None:
    counts = json.loads(output[output.index("{") :])["corpus"]
    return None if 8 <= counts["windows"] <= 12 else f"{counts['windows']} windows planned"


def _is_store(path: Path, positions: str) -> str | None:
    """Return what is wrong with the targets of a store."""
    store = Store.open(path)
    found = store.targets.vocab_size, store.targets.positions
    return None if found == (VOCAB_SIZE, positions) else f"a store of {found}"


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    seconds, has_failed = 0.0, False
    for step in steps(directory):
        outcome = run_step(step, directory)
        seconds += outcome.seconds
        has_failed = has_failed or bool(outcome.failed)
        said = "; ".join(outcome.failed) or "ok"
        print(
            f"{step.name:22} {outcome.seconds:6.1f} s  {outcome.peak_bytes / 1e9:5.2f} GB  {said}",
            flush=True,
        )
    print(f"{'all':22} {seconds:6.1f} s")
    sys.exit(has_failed)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
