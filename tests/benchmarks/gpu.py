"""What capture, selection and fused losses cost on a card, as a table in Markdown.

    python -m tests.benchmarks.gpu [--device cpu --tiny]

A random Llama of SmolLM2-135M's shape scores random windows. Capture is compared with the bare
forward pass that makes all logits, selection with that and with torch.topk. Fused losses are
compared with the same loss on logits: time of loss and gradients, and the most memory beside hidden
states, head and their gradients, which is given in logits of one chunk, too. Medians of rounds.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from softtargets import Batch, distillation_loss
from softtargets.capture import (
    Hybrid,
    TeacherConfig,
    Threshold,
    TopK,
    TransformersTeacher,
    Windowing,
)
from softtargets.capture.documents import Document
from softtargets.capture.keep.selector import select
from softtargets.capture.keep.stored_form import schema_parts
from softtargets.capture.score import Scorer, pack_windows
from softtargets.cli.selection_options import selection_text
from softtargets.kinds import TargetSchema
from softtargets.targets import DType
from softtargets.train import fused_distillation_loss
from softtargets.train.fused import CHUNK_ELEMENTS
from softtargets.window import TokenWindow
from tests.benchmarks.fused import VOCAB_SIZE as STUDENT_VOCAB_SIZE
from tests.benchmarks.fused import WIDTH, make_batch
from tests.fakes import byte_tokenizer

GRID = (1.0, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is run."""

    rounds: int
    vocab_size: int
    hidden_size: int
    num_heads: int
    num_layers: int
    num_windows: int
    num_tokens: int
    """Of a window."""
    dtype: DType


WHOLE = Size(
    rounds=9,
    vocab_size=49_152,
    hidden_size=576,
    num_heads=9,
    num_layers=30,
    num_windows=64,
    num_tokens=512,
    dtype="bfloat16",
)
TINY = Size(
    rounds=1,
    vocab_size=400,
    hidden_size=48,
    num_heads=3,
    num_layers=1,
    num_windows=2,
    num_tokens=64,
    dtype="float32",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Measures on a device, which is waited for."""

    device: torch.device
    rounds: int

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the median time of a call; the first one warms up."""
        times = []
        for _ in range(self.rounds + 1):
            self._wait()
            started = time.perf_counter()
            call()
            self._wait()
            times.append(time.perf_counter() - started)
        return statistics.median(times[1:])

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """Return the most memory a call takes beside what there is; None where it is not known."""
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def machine(device: torch.device) -> Iterator[tuple[str, str]]:
    """Yield what was measured on."""
    if device.type == "cuda":
        driver = "unknown"
        if path := shutil.which("nvidia-smi"):
            query = [path, "--query-gpu=driver_version", "--format=csv,noheader"]
            driver = subprocess.run(query, check=True, capture_output=True, text=True).stdout
        yield "card", torch.cuda.get_device_name()
        yield "driver, CUDA", f"{driver.split()[0]}, {torch.version.cuda}"
    else:
        yield "card", f"none: {device}"
    yield "torch, transformers", f"{torch.__version__}, {transformers.__version__}"


def make_teacher(directory: Path, size: Size, device: torch.device) -> TransformersTeacher:
    """Return a loaded teacher with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden_size,
        intermediate_size=8 * size.hidden_size // 3,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_heads // 3,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    own = TeacherConfig(name=str(directory), dtype=size.dtype, device=str(device))
    teacher = TransformersTeacher(own)
    teacher.load()
    return teacher


def make_windows(teacher: TransformersTeacher, size: Size) -> list[TokenWindow]:
    """Return random windows of one length."""
    rng = np.random.default_rng(0)
    windowing = Windowing(sequence_length=size.num_tokens)
    documents = (
        Document(
            content=rng.integers(0, 256, size.num_tokens).astype(np.int32),
            document_id=str(number),
            source="random",
        )
        for number in range(size.num_windows)
    )
    return list(windowing.windows(documents, teacher.tokenizer, Counter()))


def score(scorer: Scorer, windows: Sequence[TokenWindow]) -> None:
    for batch in scorer.score(windows):
        list(batch.rows())


def pack(scorer: Scorer, windows: Sequence[TokenWindow], schema: TargetSchema) -> None:
    pack_windows(windows, scorer.score(windows), schema)


def measure_capture(clock: Clock, size: Size) -> Iterator[tuple[str, str]]:
    """Yield the time of scoring and of selection, to the bare forward pass."""
    with tempfile.TemporaryDirectory() as name:
        teacher = make_teacher(Path(name), size, clock.device)
        windows = make_windows(teacher, size)
    batch_tokens = 8 * size.num_tokens
    ids_WL = torch.from_numpy(np.stack([one.input_ids_L for one in windows])).long()
    batches = ids_WL.to(clock.device).split(8)

    @torch.inference_mode()
    def forward() -> None:
        for own in batches:
            teacher._model(input_ids=own, use_cache=False)

    bare = clock.seconds(forward)
    num_tokens = ids_WL.numel()
    yield "bare forward pass", f"{num_tokens / bare:,.0f} tokens a second, {size.dtype}"
    for selection in (TopK(k=64), Hybrid(), Threshold()):
        schema = TargetSchema(
            vocab_size=teacher.vocab_size,
            tokenizer_vocab_size=teacher.tokenizer.vocab_size,
            temperatures=GRID,
            label_logits=True,
            **schema_parts(selection, "steps", GRID, teacher.vocab_size, label_logits=True),
        )
        scorer = Scorer(teacher, selection, schema, batch_tokens)
        scored = clock.seconds(partial(score, scorer, windows))
        packed = clock.seconds(partial(pack, scorer, windows, schema))
        name = selection_text(selection)
        yield f"scored, {name}", f"{scored / bare:.3f} of the forward pass"
        yield f"scored and packed, {name}", f"{packed / bare:.3f} of the forward pass"
    yield from measure_selection(clock, size, bare / num_tokens)


def measure_selection(
    clock: Clock, size: Size, seconds_per_token: float
) -> Iterator[tuple[str, str]]:
    """Yield the time of top-k selection, to the forward pass and to torch.topk."""
    rows = min(512, size.num_tokens)
    generator = torch.Generator().manual_seed(0)
    logits_NV = torch.randn((rows, size.vocab_size), generator=generator).to(clock.device)
    own_NV, labels_N = torch.empty_like(logits_NV), torch.zeros(rows, dtype=torch.int64)
    labels_N = labels_N.to(clock.device)
    copied = clock.seconds(lambda: own_NV.copy_(logits_NV))
    topk = clock.seconds(lambda: logits_NV.topk(64, dim=1))
    whole = clock.seconds(lambda: select(own_NV.copy_(logits_NV), labels_N, TopK(k=64), GRID))
    own = whole - copied
    yield "selection of the top 64", f"{own / rows / seconds_per_token:.3f} of the forward pass"
    yield "the same", f"{own / topk:.2f} of torch.topk alone"


def learn(loss: Callable[[Batch], torch.Tensor], batch: Batch) -> None:
    loss(batch).backward()


def measure_losses(clock: Clock, size: Size) -> Iterator[tuple[str, str]]:
    """Yield time and memory of the fused loss, to the loss on logits."""
    windows, tokens = (1, 32) if size is TINY else (16, 512)
    batch = make_batch(windows, tokens).to(clock.device)
    dtype = getattr(torch, size.dtype)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(shape, generator=generator).to(clock.device, dtype).requires_grad_()
        for shape in ((windows, tokens, WIDTH), (STUDENT_VOCAB_SIZE, WIDTH))
    )
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)

    def plain(own: Batch) -> torch.Tensor:
        return distillation_loss(hidden @ weight.T, own, tail="bucket", ce_weight=0.3)

    def fused(own: Batch) -> torch.Tensor:
        return fused_distillation_loss(hidden, weight, own, tail="bucket", ce_weight=0.3)

    seconds, peaks = {}, {}
    for loss in (plain, fused):
        seconds[loss] = clock.seconds(partial(learn, loss, batch))
        peaks[loss] = clock.peak_bytes(partial(learn, loss, batch))
    where = f"{windows * tokens:,} tokens, vocabulary {STUDENT_VOCAB_SIZE:,}, {size.dtype}"
    yield "loss on logits", f"{1000 * seconds[plain]:,.1f} ms, {where}"
    yield "fused loss, time", f"{seconds[fused] / seconds[plain]:.2f} of that on logits"
    own_peak, plain_peak = peaks[fused], peaks[plain]
    if own_peak is None or plain_peak is None:
        yield "fused loss, memory", "not known on this device"
        return
    yield "fused loss, memory", f"{own_peak / plain_peak:.2f} of that on logits"
    yield "the same", f"{own_peak / (4 * CHUNK_ELEMENTS):.2f} of one chunk's logits"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="so small that it means nothing")
    arguments = parser.parse_args()
    size = TINY if arguments.tiny else WHOLE
    clock = Clock(device=torch.device(arguments.device), rounds=size.rounds)
    print("| what | found |\n|---|---|")
    for rows in (machine(clock.device), measure_capture(clock, size), measure_losses(clock, size)):
        for what, found in rows:
            print(f"| {what} | {found} |", flush=True)


if __name__ == "__main__":
    main()
