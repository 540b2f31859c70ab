"""How much longer a build to an object store takes than one to a directory.

    python -m tests.benchmarks.s3_build [PAGE] [--latency 0.05] [--rounds 5] [--units 12]
        [--unit-tokens 16384]

builds the same store from the same corpus with the same random Llama, in turns, into a directory
and to an S3 server on loopback, behind a proxy that answers each request later by the latency. The
teacher computes with one thread, so that the server has another core. It prints the ratio of the
medians: of whole builds, and of what lies between the plan and the commit, which grows with the
corpus. Beside it stand the requests of a unit, by what they are for, and what the teacher's process
waits for. With PAGE the table is written there. Exits with 1 when the units take more than the
goal.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from softtargets.capture import (
    BuildConfig,
    BuildResult,
    Corpus,
    TeacherConfig,
    TransformersTeacher,
    Windowing,
    build,
    building,
    unit_queue,
    units,
    units_ahead,
)
from softtargets.places import place_to_write
from tests.benchmarks.page_table import put_table
from tests.fakes import TEXTS, byte_tokenizer, write_corpus
from tests.object_store import Proxy, make_bucket, run_conditional_server, run_proxy

MOST_RATIO = 1.02
SEQUENCE, BATCH_TOKENS = 256, 2048
PARTS = {
    "waits for units with their windows": (units_ahead.UnitsAhead, "due"),
    "waits for the last shard": (units, "wait_for"),
    "notes units as done": (unit_queue.UnitQueue, "finish"),
}
KINDS = ("claims", "windows", "records", "shards", "manifest", "heartbeats")
"""Of requests; heartbeats come by the clock."""


@dataclass(kw_only=True)
class Measured:
    """One build."""

    seconds: float
    num_units: int
    unit_seconds: float
    """Between the plan and the commit."""
    parts: Counter[str]
    requests: Counter[str]
    """By kind, those between the plan and the commit."""


def save_teacher(directory: Path) -> TransformersTeacher:
    """Write a random Llama of some millions of weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=8,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    named = TeacherConfig(name=str(directory), dtype="float32", device="cpu")
    return TransformersTeacher(named)


def corpus_of(path: Path, num_tokens: int) -> Corpus:
    """Write documents of so many tokens; a token is a byte."""
    rng, left = random.Random(0), num_tokens
    texts: list[str] = []
    while left > 0:
        texts.append(" ".join(rng.choices(TEXTS, k=24)) + f" {len(texts)}")
        left -= len(texts[-1])
    return Corpus(paths=(write_corpus(path, texts),))


def kind_of(path: str) -> str:
    """Return what a request is for, by the path of its object."""
    for kind, part in (
        ("claims", "/work/leases"), ("windows", "/work/plan/"), ("records", "/work/records"),
        ("shards", "/shards"), ("heartbeats", "/work/workers"),
        ("manifest", "/manifest.json"),
    ):  # fmt: skip
        if part in path:
            return kind
    return "others"


def measure(run: Callable[[], BuildResult], proxy: Proxy) -> Measured:
    """Time a build and its parts, and count its requests."""
    parts: Counter[str] = Counter()
    found: dict[str, Any] = {}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                parts[name] += time.perf_counter() - started  # type: ignore[assignment]

        return act

    def run_all(*args: Any, real: Any = building._run, **options: Any) -> None:
        before, started = len(proxy.requests), time.perf_counter()
        real(*args, **options)
        found["seconds"] = time.perf_counter() - started
        found["requests"] = proxy.requests[before:]

    with pytest.MonkeyPatch.context() as patch:
        for name, (owner, method) in PARTS.items():
            patch.setattr(owner, method, timed(name, getattr(owner, method)))
        patch.setattr(building, "_run", run_all)
        started = time.perf_counter()
        num_units = run().num_units
        seconds = time.perf_counter() - started
    return Measured(
        seconds=seconds,
        num_units=num_units,
        unit_seconds=found["seconds"],
        parts=parts,
        requests=Counter(kind_of(path) for _, path, _ in found["requests"]),
    )


def measure_all(
    rounds: int, num_units: int, unit_tokens: int, latency: float
) -> dict[str, list[Measured]]:
    """Build in turns; one more build comes first and is not counted."""
    found: dict[str, list[Measured]] = {"directory": [], "S3": []}
    with (
        tempfile.TemporaryDirectory() as name,
        run_conditional_server() as port,
        run_proxy(port) as proxy,
    ):
        torch.set_num_threads(1)
        teacher = save_teacher(Path(name) / "teacher")
        config = BuildConfig(
            corpus=corpus_of(Path(name) / "corpus.jsonl", num_units * unit_tokens),
            windowing=Windowing(sequence_length=SEQUENCE),
            unit_tokens=unit_tokens,
            batch_tokens=BATCH_TOKENS,
        )
        for number in range(rounds + 1):
            directory = place_to_write(Path(name) / f"store-{number}")
            bucket = place_to_write(proxy.url(f"{make_bucket(port)}/store"))
            for where, place in (("directory", directory), ("S3", bucket)):
                proxy.latency = latency
                one = measure(lambda place=place: build(config, teacher, place=place), proxy)  # type: ignore[misc]
                if number:
                    found[where].append(one)
                    print(f"{where}: {one.seconds:.2f} s, units {one.unit_seconds:.2f} s")
    return found


def table(found: dict[str, list[Measured]], unit_tokens: int, latency: float) -> list[str]:
    """Return the table, with what the medians are."""

    def medians(of: Callable[[Measured], float]) -> list[float]:
        return [statistics.median(map(of, own)) for own in found.values()]

    def row(name: str, cells: Sequence[str]) -> str:
        return f"| {name} | {' | '.join(cells)} |"

    whole, unit = medians(lambda one: one.seconds), medians(lambda one: one.unit_seconds)
    lines = [
        f"{found['S3'][0].num_units} units of {unit_tokens:,} tokens, "
        f"{latency * 1000:.0f} ms a request.",
        "",
        row("", list(found)),
        "|---|---:|---:|",
        row("seconds", [f"{one:.2f}" for one in whole]),
        row("of them for units", [f"{one:.2f}" for one in unit]),
    ]
    for part in PARTS:
        shares = medians(lambda one, part=part: one.parts[part] / one.unit_seconds)  # type: ignore[misc]
        lines.append(row(part, [f"{one:.1%}" for one in shares]))
    for kind in (*KINDS, "others"):
        counts = medians(lambda one, kind=kind: one.requests[kind] / one.num_units)  # type: ignore[misc]
        lines.append(row(f"requests a unit: {kind}", [f"{one:.2f}" for one in counts]))
    ratios = f"{whole[1] / whole[0]:.3f} times as long, the units {unit[1] / unit[0]:.3f} times"
    return [*lines, "", f"To S3 a build takes {ratios}."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", nargs="?", type=Path)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--units", type=int, default=12)
    parser.add_argument("--unit-tokens", type=int, default=16_384)
    arguments = parser.parse_args()
    tokens, latency = arguments.unit_tokens, arguments.latency
    found = measure_all(arguments.rounds, arguments.units, tokens, latency)
    lines = table(found, tokens, latency)
    print("\n".join(lines))
    if arguments.page is not None:
        put_table(arguments.page, "s3 build", lines)
    medians = [statistics.median(one.unit_seconds for one in own) for own in found.values()]
    sys.exit(medians[1] > MOST_RATIO * medians[0])


if __name__ == "__main__":
    main()
