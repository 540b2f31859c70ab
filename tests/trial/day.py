"""The steps of a first user's day: from conversations to students."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from softtargets import Store
from softtargets.capture.teachers.cpu_formats import times_float32
from softtargets.report.number_texts import bytes_text
from tests.report.chromium import open_browser
from tests.trial import phone
from tests.trial.corpus import CHAT_TEMPLATE, write_corpora
from tests.trial.gemma import gemma_directory
from tests.trial.steps import Claim, Step

VOCAB_SIZE = 262_144
SEQUENCE_LENGTH = "512"
NUM_RESCORED = "20"


def command(*arguments: str | Path) -> None:
    """Run a command of softtargets."""
    from softtargets.cli import main

    main([str(one) for one in arguments], prog_name="softtargets")


def train(*arguments: Any) -> None:
    """Run a training, which imports all trainers."""
    from tests.trial import training

    training.main(*arguments)


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
    yield Step(name="teacher", program=gemma_directory)
    teacher = gemma_directory()
    common: list[str | Path] = [
        "--teacher", teacher, "--sequence-length", SEQUENCE_LENGTH, "--window", "pack",
        "--dtype", "float32" if times_float32("bfloat16") > 1 else "bfloat16",
    ]  # fmt: skip
    chat: list[str | Path] = [
        *common, "--input", chats_input, "--output", chats, "--messages-field", "messages",
        "--tools-field", "tools", "--chat-template", CHAT_TEMPLATE,
    ]  # fmt: skip
    yield Step(
        name="plan",
        program=command,
        arguments=["plan", *chat, "--json"],
        claim=_planned,
    )
    yield Step(
        name="build chats",
        program=command,
        arguments=["build", *chat],
        claim=lambda _: _is_store(chats, "listed"),
    )
    yield Step(
        name="build texts",
        program=command,
        arguments=["build", *common, "--input", texts_input, "--output", texts],
        claim=lambda _: _is_store(texts, "all"),
    )
    yield Step(
        name="verify and rescore",
        program=command,
        arguments=["verify", chats, "--rescore", NUM_RESCORED, "--teacher", teacher],
        # Fewer than asked for are there, so all are compared.
        claim=lambda output: says(
            "targets checked",
            f"{len(Store.open(chats))} windows, ",
            "agrees with the live teacher",
        )(output),
    )
    size = "size " + bytes_text(sum(one.stat().st_size for one in _files(chats)))
    yield Step(name="info", program=command, arguments=["info", chats], claim=says(size))
    page = directory / "report.html"
    yield Step(name="report", program=command, arguments=["report", chats, "--output", page])
    if os.environ.get("CI") or _has_browser():
        yield Step(name="report on a phone", program=phone.main, arguments=[page])
    else:
        print("report on a phone: left out, as there is no browser")
    yield _export(chats, directory / "plain", "plain")
    yield _export(chats, directory / "distillkit", "distillkit", "--without-draws")
    for trainer in ("plain", "trainer", "trl"):
        for run in ("whole", "resumed"):
            yield Step(
                name=f"train {trainer} {run}",
                program=train,
                arguments=[trainer, run, directory / f"train-{trainer}", chats, texts, teacher],
            )


def _has_browser() -> bool:
    with open_browser() as browser:
        return browser is not None


def _export(store: Path, output: Path, layout: str, *options: str) -> Step:
    return Step(
        name=f"export to {layout}",
        program=command,
        arguments=["export", store, output, "--to", layout, *options],
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
