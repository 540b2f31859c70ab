"""How much of vLLM's own prefill speed is left when a selection is made inside its workers.

    python -m tests.benchmarks.prefill [docs/teachers.md] [--tokens 2048] [--rounds 5]

needs vLLM: `make vllm` builds an environment with it. vLLM reads windows of the Python language
reference with and without a selection: SmolLM2-135M, and a random Llama with the shapes of
SmolLM2-1.7B, which reads a quarter of them and takes most of the time. Prints a table of medians
over rounds, and writes it into the page.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch

from softtargets.capture import Hybrid, Keep, Segment, TeacherConfig, TopK, open_teacher
from softtargets.capture.keep.logit_chunks import SELECTING, logit_chunks
from softtargets.capture.vllm_engine.prompt_rows import PromptRows
from softtargets.demo.smollm import teacher_directory
from tests.benchmarks.page_table import put_table
from tests.benchmarks.servers import BATCH_TOKENS, segments

TABLE = "selecting inside vLLM"
Number = Literal["float32", "bfloat16"]
DTYPES: tuple[Number, ...] = ("float32", "bfloat16")
KEEPS = {
    "64": Keep(selection=TopK(k=64), temperatures=(1.0,)),
    "default": Keep(selection=Hybrid(), temperatures=(1.0,)),
}
OPTIONS = (
    ("max_model_len", 1025),
    ("max_num_batched_tokens", BATCH_TOKENS),
    ("enforce_eager", True),
    ("max_logprobs", 64),
)


def alone_in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def save_large(directory: Path) -> None:
    """Write a random Llama with the shapes and the tokenizer of SmolLM2-1.7B, 3.4 GB."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=32,
        num_key_value_heads=32,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(directory)
    AutoTokenizer.from_pretrained(teacher_directory()).save_pretrained(directory)


def run(
    directory: Path, dtype: Number, num_tokens: int, rounds: int
) -> tuple[int, dict[str, list[float]]]:
    """Return the tokens read in a round, and its seconds: vLLM alone, selecting, and its lists."""
    own = segments(num_tokens)
    config = TeacherConfig(name=f"vllm:{directory}", dtype=dtype, engine_arg=OPTIONS)
    teacher: Any = open_teacher(config)
    teacher.load()
    prompts = [one.input_ids_L[: one.positions_T[-1] + 1].tolist() for one in own]
    lists = {"prompt_logprobs": 64, "flat_logprobs": True}
    read = teacher._engine._generate
    modes: dict[str, Callable[[], object]] = {
        "alone": lambda: read(prompts, [{}] * len(prompts)),
        "logits": lambda: make_logits(teacher, own),
        **{name: lambda keep=keep: teacher.capture(own, keep) for name, keep in KEEPS.items()},  # type: ignore[misc]
        "prompt_logprobs": lambda: read(prompts, [lists] * len(prompts)),
    }
    found: dict[str, list[float]] = {name: [] for name in modes}
    for _ in range(rounds + 1):
        for name, mode in modes.items():
            started = time.perf_counter()
            mode()
            found[name].append(time.perf_counter() - started)
    return sum(map(len, prompts)), {name: seconds[1:] for name, seconds in found.items()}


def make_logits(teacher: Any, own: Sequence[Segment]) -> None:
    """Have the logits of all targets made inside vLLM's workers, and thrown away."""
    keep = PromptRows._keep

    def making(self: Any, rows_S: torch.Tensor, hidden_SD: torch.Tensor) -> None:
        for _ in logit_chunks(hidden_SD, self._make_logits, self._vocab_size, SELECTING):
            pass
        keep(self, rows_S, hidden_SD)

    with patch.object(PromptRows, "_keep", making):
        teacher.read(own)


def table(num_tokens: int, rounds: int) -> Iterator[str]:
    """Yield the lines of the table."""
    yield (
        "| teacher | numbers | vLLM alone, tokens/s | making all logits | selecting k = 64 | "
        "selecting by default | prompt_logprobs = 64 |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|"
    with tempfile.TemporaryDirectory() as name:
        large = Path(name) / "large"
        alone_in_process(save_large, large)
        for teacher, directory, num_own in (
            ("SmolLM2-135M", teacher_directory(), num_tokens),
            ("1.7 billion random weights", large, num_tokens // 4),
        ):
            for dtype in DTYPES:
                found = alone_in_process(run, directory, dtype, num_own, rounds)
                yield f"| {teacher} | {dtype} | {row(*found)} |"


def row(num_read: int, seconds: Mapping[str, Sequence[float]]) -> str:
    """Return vLLM's own speed, and the shares of it that are left otherwise."""
    alone = seconds["alone"]
    shares = [
        statistics.median(own / one for own, one in zip(alone, seconds[name], strict=True))
        for name in ("logits", "64", "default", "prompt_logprobs")
    ]
    cells = [f"{num_read / statistics.median(alone):.0f}", *(f"{share:.0%}" for share in shares)]
    return " | ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", nargs="?", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    lines = []
    for line in table(arguments.tokens, arguments.rounds):
        print(line, flush=True)
        lines.append(line)
    if arguments.page is not None:
        put_table(arguments.page, TABLE, lines)


if __name__ == "__main__":
    main()
