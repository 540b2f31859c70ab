"""Time and memory of planning, at once and in slices, and of a corpus ten times as long.

    python -m tests.benchmarks.planning [docs/scale.md] [--windows N] [--times T]

plans about a million windows of 64 tokens, of which a tenth occurs twice, with SmolLM2-135M's
tokenizer: at once, which was the only way before there were slices, then in slices in one process
and in two. Then it plans T times as many in slices in one process. The plans of one corpus have to
be the same bytes. Memory is the most that one process had resident, its workers included. Each plan
is made in a new process. Prints a table, and writes it into the page.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from pydoc_data.topics import topics
from threading import Event, Thread
from typing import Any

from softtargets.capture import (
    BuildConfig,
    Corpus,
    TeacherConfig,
    TransformersTeacher,
    Windowing,
    planning,
)
from softtargets.capture.identity import describe_build
from softtargets.engines import Engine, InProcess, Processes
from softtargets.store.writer import StoreWriter
from tests.benchmarks.memory import save_teacher
from tests.benchmarks.page_table import put_table

TABLE = "planning"
LENGTH = 64
WINDOWS_PER_DOCUMENT = 40
DOCUMENTS_PER_FILE = 1_500
"""Some 17 MB of text."""
_TOKENS_PER_WORD = 1.4
_REPEATED = 10
"""Of so many documents one is written twice."""


def write_corpus(directory: Path, num_windows: int) -> Corpus:
    """Write about so many windows of words of the Python language reference, in files."""
    directory.mkdir()
    rng = random.Random(0)
    words = " ".join(topics.values()).replace("\\", "/").replace('"', "'").split()
    num_words = round(LENGTH * WINDOWS_PER_DOCUMENT / _TOKENS_PER_WORD)
    num_documents = max(1, num_windows // WINDOWS_PER_DOCUMENT)
    paths = []
    for start in range(0, num_documents, DOCUMENTS_PER_FILE):
        paths.append(directory / f"{start:09d}.jsonl")
        with open(paths[-1], "w") as file:
            for number in range(start, min(start + DOCUMENTS_PER_FILE, num_documents)):
                line = f'{{"text": "{" ".join(rng.choices(words, k=num_words))}"}}\n'
                file.write(line * (2 if number % _REPEATED == 0 else 1))
    return Corpus(paths=tuple(paths))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a plan took."""

    num_windows: int
    seconds: float
    most_bytes: int
    """That one process had resident."""
    sha256: str
    """Of all files of the plan."""


def measure(directory: Path, corpus: Corpus, num_workers: int, answer: Any) -> None:
    """Plan in this process, or with so many others; none is at once."""
    engine: Engine = Processes(num_workers) if num_workers > 1 else InProcess()
    planning.AT_ONCE_BYTES = 0 if num_workers else 1 << 62
    teacher = TransformersTeacher(TeacherConfig(name=str(directory / "teacher"), dtype="float32"))
    with tempfile.TemporaryDirectory(dir=directory) as name:
        output = Path(name) / "store"
        config = BuildConfig(
            corpus=corpus, output=output, windowing=Windowing(sequence_length=LENGTH)
        )
        with StoreWriter.hold(output, describe_build(config, teacher)) as writer:
            with _Watched() as watched:
                started = time.perf_counter()
                plan = planning.make_plan(config, teacher, writer, engine)
                seconds = time.perf_counter() - started
            answer.put(
                Measured(
                    num_windows=plan.num_windows,
                    seconds=seconds,
                    most_bytes=max(watched.most_bytes, *_resident(os.getpid())),
                    sha256=_hash(output),
                )
            )


def _hash(output: Path) -> str:
    digest = sha256()
    for path in (output / "work/plan.json", *sorted((output / "work/plan").iterdir())):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Watched:
    """The most that a process had resident that this one began; looked at ten times a second."""

    most_bytes = 0

    def __enter__(self) -> _Watched:
        self._ends = Event()
        self._thread = Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.wait(0.1):
            self.most_bytes = max(self.most_bytes, *_resident(os.getpid()))


def _resident(process_id: int) -> list[int]:
    """Return the most bytes that a process and those that it began have had resident so far."""
    found: dict[int, tuple[int, int]] = {}
    for path in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            fields = dict(line.split(":", 1) for line in path.read_text().splitlines())
            peak = int(fields.get("VmHWM", "0 kB").split()[0])
            found[int(path.parent.name)] = int(fields["PPid"]), 1024 * peak
    own = {process_id}
    while more := {one for one, (parent, _) in found.items() if parent in own} - own:
        own |= more
    return [peak for one, (_, peak) in found.items() if one in own]


def run_all(num_windows: int, times: int) -> Iterator[str]:
    """Yield the lines of the table.

    Raises:
        SystemExit: two plans of one corpus are not the same.
    """
    yield "| windows | planned | seconds | windows per second | most memory of a process |"
    yield "|---:|---|---:|---:|---:|"
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        save_teacher(directory / "teacher")
        for factor, ways in ((1, (0, 1, 2)), (times, (1,))):
            corpus = write_corpus(directory / f"corpus-{factor}", factor * num_windows)
            hashes = set()
            for num_workers in ways:
                answer = context.Queue()
                arguments = (directory, corpus, num_workers, answer)
                process = context.Process(target=measure, args=arguments)
                process.start()
                found: Measured = answer.get()
                process.join()
                hashes.add(found.sha256)
                processes = "two processes" if num_workers == 2 else "one process"
                way = f"in slices, {processes}" if num_workers else "at once"
                yield (
                    f"| {found.num_windows:,} | {way} | {found.seconds:,.0f} "
                    f"| {found.num_windows / found.seconds:,.0f} "
                    f"| {found.most_bytes / 1e6:,.0f} MB |"
                )
            if len(hashes) > 1:
                raise SystemExit("two plans of one corpus are not the same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, nargs="?")
    parser.add_argument("--windows", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=10)
    arguments = parser.parse_args()
    lines = []
    for line in run_all(arguments.windows, arguments.times):
        print(line, flush=True)
        lines.append(line)
    if arguments.page is not None:
        put_table(arguments.page, TABLE, lines)


if __name__ == "__main__":
    main()
