"""SmolLM2 through every engine that is installed, side by side, against transformers in float32.

    python -m tests.benchmarks.engines [docs/teachers.md] [--tokens 2048] [--rounds 5]

needs vLLM: `make vllm` builds an environment with it. Windows of the Python language reference are
captured through transformers, vLLM in process, vLLM's server and llama.cpp, each in a process of
its own, at k = 64 and at the default selection; once to be warm and some rounds for the speed.
Prints a table, and writes it into the page. `tests.benchmarks.prefill` says what selecting inside
vLLM costs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from softtargets.capture import (
    Keep,
    LocalTeacher,
    Segment,
    Selected,
    Teacher,
    TeacherConfig,
    TransformersTeacher,
    open_teacher,
)
from softtargets.capture.abilities import nearest
from softtargets.capture.keep.logit_chunks import COMPARING
from softtargets.capture.vllm_engine.tensor_bytes import tensors_from_bytes, tensors_to_bytes
from softtargets.demo.smollm import find_gguf, teacher_directory
from tests.benchmarks.engine_errors import Errors
from tests.benchmarks.lookups import peak_memory
from tests.benchmarks.page_table import put_table
from tests.benchmarks.prefill import KEEPS, OPTIONS, Number, alone_in_process
from tests.benchmarks.servers import capture, segments
from tests.servers.vllm_process import PYTHON, run_vllm

NOT_INSTALLED = "not installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What an engine kept, as bytes, and what it took."""

    selected: bytes
    speed: float
    """Tokens per second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What became of an engine: by selection, None where it cannot tell what is to be kept."""

    captured: Mapping[str, Captured | None]
    memory: float
    """Most memory of its processes, over what this one had before, in bytes."""


def transformers(dtype: Number, stack: ExitStack) -> tuple[Teacher, Callable[[], int]]:
    """Return a teacher, and what tells the memory of other processes."""
    config = TeacherConfig(name=str(teacher_directory()), dtype=dtype, device="cpu")
    return TransformersTeacher(config), lambda: 0


def in_process(dtype: Number, stack: ExitStack) -> tuple[Teacher, Callable[[], int]]:
    """Return vLLM's teacher."""
    name = f"vllm:{teacher_directory()}"
    return open_teacher(TeacherConfig(name=name, dtype=dtype, engine_arg=OPTIONS)), lambda: 0


def served(dtype: Number, stack: ExitStack) -> tuple[Teacher, Callable[[], int]]:
    """Return a teacher behind vLLM's server, which is started."""
    os.environ.setdefault(PYTHON, sys.executable)
    log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log.txt"
    server = stack.enter_context(run_vllm(teacher_directory(), log, dtype=dtype))
    config = TeacherConfig(name=server.url, tokenizer=str(teacher_directory()), dtype=dtype)
    return open_teacher(config), server.peak_bytes


def llama(dtype: Number, stack: ExitStack) -> tuple[Teacher, Callable[[], int]]:
    """Return llama.cpp's teacher, which has a number format of its own."""
    return open_teacher(TeacherConfig(name=f"llama:{find_gguf()}")), lambda: 0


ENGINES: dict[tuple[str, str], tuple[str, Callable[..., Any]]] = {
    ("transformers", "float32"): ("transformers", transformers),
    ("transformers", "bfloat16"): ("transformers", transformers),
    ("vLLM in process", "float32"): ("vllm", in_process),
    ("vLLM in process", "bfloat16"): ("vllm", in_process),
    ("vLLM's server", "float32"): ("vllm", served),
    ("vLLM's server", "bfloat16"): ("vllm", served),
    ("llama.cpp", "4-bit weights"): ("llama_cpp", llama),
}
"""Engines with their number formats: the package that each needs, and what makes its teacher."""


def run(make: Callable[..., Any], dtype: str, num_tokens: int, rounds: int) -> Run:
    """Capture through an engine, in a process of its own so that its memory is its own."""
    own = segments(num_tokens)
    before = peak_memory()
    with ExitStack() as stack:
        teacher, others = make(dtype, stack)
        teacher.load()
        captured = {name: timed(teacher, own, keep, rounds) for name, keep in KEEPS.items()}
        memory = (peak_memory() - before) * 1024 + others()
        return Run(captured=captured, memory=memory)


def timed(teacher: Teacher, own: Sequence[Segment], keep: Keep, rounds: int) -> Captured | None:
    """Capture, once to be warm and some rounds; None if the teacher cannot tell it."""
    if nearest(keep, teacher.abilities) != keep:
        return None
    speeds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        selected = capture(teacher, own, keep)
        speeds.append(sum(map(len, own)) / (time.perf_counter() - started))
    written = tensors_to_bytes(selected.tensors())
    return Captured(selected=written, speed=statistics.median(speeds[1:]))


def table(num_tokens: int, rounds: int) -> Iterator[str]:
    """Yield the lines of the table of engines."""
    own = segments(num_tokens)
    reference = TransformersTeacher(
        TeacherConfig(name=str(teacher_directory()), dtype="float32", device="cpu")
    )
    reference.load()
    yield (
        "| engine | numbers | k | ids among those of transformers | log-probabilities apart on "
        "average, nats | at most | tail apart at most | draws, standard errors | tokens/s | "
        "memory |"
    )
    yield "|---|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for (engine, numbers), (package, make) in ENGINES.items():
        if find_spec(package) is None:
            yield f"| {engine} | {numbers} | {NOT_INSTALLED} | | | | | | | |"
            continue
        found = alone_in_process(run, make, numbers, num_tokens, rounds)
        for name, captured in found.captured.items():
            yield row(f"{engine} | {numbers} | {name}", captured, found.memory, own, reference)


def row(
    start: str,
    captured: Captured | None,
    memory: float,
    own: Sequence[Segment],
    reference: LocalTeacher,
) -> str:
    """Return the line of an engine and a selection."""
    if captured is None:
        return f"| {start} | it cannot tell this | | | | | | |"
    keep = KEEPS[start.rpartition("| ")[2]]
    selected = Selected.of_tensors(tensors_from_bytes(captured.selected))
    errors = Errors(keep.selection, reference.vocab_size)
    for rows, logits_CV in reference.chunks(reference.read(own), COMPARING):
        errors.add(selected.slice(rows.start, rows.stop), logits_CV)
    draws = "" if errors.law is None else f"{errors.law.deviation:+.1f}"
    return (
        f"| {start} | {errors.same_ids:.3%} | {errors.logprob_mean:.2g} | "
        f"{errors.logprob_most:.2g} | {errors.tail_most:.2g} | {draws} | {captured.speed:.0f} | "
        f"{memory / 1e6:,.0f} MB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", nargs="?", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if find_spec("vllm") is None:
        parser.error("no vLLM here; `make vllm` builds an environment with it")
    lines = []
    for line in table(arguments.tokens, arguments.rounds):
        print(line, flush=True)
        lines.append(line)
    if arguments.page is not None:
        put_table(arguments.page, "engines", lines)


if __name__ == "__main__":
    main()
