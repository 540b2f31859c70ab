"""SmolLM2 behind vLLM's server on the CPU, against the same model in transformers.

    SOFTTARGETS_VLLM=.venv-vllm/bin/python python -m tests.benchmarks.servers \\
        [docs/servers.md] [--tokens 1024] [--rounds 2]

captures windows of the Python language reference through the server and through transformers, and
compares entries, tails and labels. Both capture them in turn, once to be warm and some rounds for
the speed. Prints a table, and writes it into the page.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from softtargets.capture import (
    Keep,
    LocalTeacher,
    Teacher,
    TeacherConfig,
    TopK,
    TransformersTeacher,
    Windowing,
)
from softtargets.capture.batches import Batches
from softtargets.capture.documents import raise_invalid
from softtargets.capture.keep.selected import Selected
from softtargets.capture.segments import Segment, segments_of
from softtargets.capture.servers.served import ServerTeacher
from softtargets.demo.smollm import teacher_directory
from tests.benchmarks.layouts import small_corpus
from tests.benchmarks.page_table import put_table
from tests.servers.vllm_process import PYTHON, VllmProcess, run_vllm

DTYPES: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
ENTRIES = (20, 64)
BATCH_TOKENS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was measured in one number format with one k."""

    dtype: str
    k: int
    same_ids: float
    """Share of the entries whose id is among those of transformers."""
    same_top: float
    logprob_mean: float
    logprob_most: float
    tail_most: float
    same_ranks: float
    served_speed: float
    local_speed: float


def segments(num_tokens: int) -> list[Segment]:
    """Return windows of 512 tokens of the Python language reference."""
    teacher = TransformersTeacher(TeacherConfig(name=str(teacher_directory()), device="cpu"))
    with tempfile.TemporaryDirectory() as name:
        corpus = small_corpus(Path(name), num_tokens)
        documents = list(corpus.documents(raise_invalid, corpus))
    cut = Windowing(sequence_length=512).windows(documents, teacher.tokenizer, Counter())
    return segments_of(*cut)


def capture(teacher: Teacher, own: Sequence[Segment], keep: Keep) -> Selected:
    """Return the targets of segments, in their order."""
    batches = Batches(BATCH_TOKENS, teacher.device)
    found: dict[int, Selected] = {}
    for places, selected in batches.run(own, lambda members: teacher.capture(members, keep)):
        start = 0
        for place in places:
            stop = start + len(own[place].positions_T)
            found[place] = selected.slice(start, stop)
            start = stop
    return Selected.concatenate([found[place] for place in sorted(found)])


def timed(teacher: Teacher, own: Sequence[Segment], keep: Keep) -> tuple[float, Selected]:
    """Return tokens per second, and the targets."""
    started = time.perf_counter()
    selected = capture(teacher, own, keep)
    return sum(map(len, own)) / (time.perf_counter() - started), selected


def logprobs(selected: Selected) -> torch.Tensor:
    """Return log-probabilities of entries, whose logits need not be normalised."""
    lse_N1 = selected.logits_NK.double().logsumexp(dim=1, keepdim=True)
    return selected.logits_NK.double() - lse_N1 + torch.log1p(-selected.tail_mass_NG.double())


def compare(
    served: ServerTeacher,
    local: LocalTeacher,
    own: Sequence[Segment],
    *,
    dtype: str,
    k: int,
    rounds: int,
) -> Found:
    """Return how far the server's targets are from those of transformers, and how fast both are."""
    keep = Keep(selection=TopK(k=k), temperatures=(1.0,))
    speeds: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        served_speed, its = timed(served, own, keep)
        local_speed, expected = timed(local, own, keep)
        speeds.append((served_speed, local_speed))
    is_same_NKK = its.ids_NK[:, :, None] == expected.ids_NK[:, None, :]
    apart_NKK = (logprobs(its)[:, :, None] - logprobs(expected)[:, None, :]).abs()
    apart = apart_NKK[is_same_NKK]
    assert its.label_rank_N is not None
    assert expected.label_rank_N is not None
    return Found(
        dtype=dtype,
        k=k,
        same_ids=float(is_same_NKK.any(dim=2).double().mean()),
        same_top=float((its.ids_NK[:, 0] == expected.ids_NK[:, 0]).double().mean()),
        logprob_mean=float(apart.mean()),
        logprob_most=float(apart.max()),
        tail_most=float((its.tail_mass_NG - expected.tail_mass_NG).abs().max()),
        same_ranks=float((its.label_rank_N == expected.label_rank_N).double().mean()),
        served_speed=statistics.median(one for one, _ in speeds[1:]),
        local_speed=statistics.median(one for _, one in speeds[1:]),
    )


def measure(own: Sequence[Segment], rounds: int) -> Iterator[Found]:
    """Yield what is found in each number format, and print the memory at its end."""
    directory = teacher_directory()
    for dtype in DTYPES:
        with tempfile.TemporaryDirectory() as name:
            log = Path(name) / "log.txt"
            with run_vllm(directory, log, dtype=dtype) as server:
                config = TeacherConfig(name=server.url, tokenizer=str(directory), dtype=dtype)
                served = ServerTeacher(config)
                served.load()
                local = TransformersTeacher(
                    TeacherConfig(name=str(directory), dtype=dtype, device="cpu")
                )
                local.load()
                for k in ENTRIES:
                    yield compare(served, local, own, dtype=dtype, k=k, rounds=rounds)
                print(memory_text(dtype, server), flush=True)


def memory_text(dtype: str, server: VllmProcess) -> str:
    """Return the peaks of the server's processes and of this one."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return (
        f"{dtype}: peak memory of the server {server.peak_bytes() / 1e9:.2f} GB (1 GiB of it for "
        f"its cache), of this process with both teachers {own / 1e9:.2f} GB"
    )


def table(found: Sequence[Found]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield (
        "| number format | k | ids among those of transformers | same likeliest id | apart on "
        "average, nats | at most | tail apart at most | same rank of the label | tokens/s "
        "through the server | tokens/s of transformers |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for one in found:
        yield (
            f"| {one.dtype} | {one.k} | {one.same_ids:.4%} | {one.same_top:.2%} | "
            f"{one.logprob_mean:.2g} | {one.logprob_most:.2g} | {one.tail_most:.2g} | "
            f"{one.same_ranks:.2%} | {one.served_speed:.0f} | {one.local_speed:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", nargs="?", type=Path)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    if PYTHON not in os.environ:
        parser.error(f"set {PYTHON} to a Python that has vLLM; `make servers` builds one")
    lines = list(table(list(measure(segments(arguments.tokens), arguments.rounds))))
    print("\n".join(lines))
    if arguments.page is not None:
        put_table(arguments.page, "servers", lines)


if __name__ == "__main__":
    main()
