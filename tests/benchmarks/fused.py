"""Memory and time of the fused loss, against plain cross-entropy.

    python -m tests.benchmarks.fused

Memory: the most that a process of its own had resident above what it had before, for plain
cross-entropy on the logits of one chunk, and for losses on a whole batch. Time: a training step of
a student with SmolLM2's vocabulary, the steps of all losses taken in turn. Exits with 1 when a goal
is missed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from softtargets import Batch, collate, distillation_loss
from softtargets.kinds import HeadSchema, SampleSchema, TargetSchema
from softtargets.targets import Samples, SoftTargets, pack
from softtargets.train import JSD, ForwardKL, ReverseKL, fused_distillation_loss
from softtargets.train.fused import CHUNK_ELEMENTS
from softtargets.window import TokenWindow, Window, hash_window

VOCAB_SIZE, WIDTH = 49_152, 576
MOST_MEMORY, MOST_TIME = 1.1, 1.1
Loss = Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor]


def plain(hidden: torch.Tensor, weight: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross-entropy as trainers compute it, on the logits of the whole batch."""
    logits = hidden @ weight.T
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten()
    )


LOSSES: dict[str, Loss] = {
    "cross-entropy on logits": plain,
    "fused, cross-entropy alone": lambda h, w, b: fused_distillation_loss(h, w, b, ce_weight=1.0),
    "fused, forward KL, bucket": lambda h, w, b: fused_distillation_loss(h, w, b, tail="bucket"),
    "fused, forward KL at T = 2": lambda h, w, b: fused_distillation_loss(h, w, b, 2.0),
    "fused, sampled": lambda h, w, b: fused_distillation_loss(h, w, b, tail="sampled"),
    "fused, forward KL, 0.3 cross-entropy": lambda h, w, b: fused_distillation_loss(
        h, w, b, ce_weight=0.3, tail="bucket"
    ),
    "fused, the same at T = 2": lambda h, w, b: fused_distillation_loss(
        h, w, b, 2.0, ce_weight=0.3, tail="bucket"
    ),
    "fused, reverse KL": lambda h, w, b: fused_distillation_loss(h, w, b, divergence=ReverseKL()),
    "fused, JSD": lambda h, w, b: fused_distillation_loss(h, w, b, divergence=JSD(0.5)),
    "fused, uniform tail": lambda h, w, b: fused_distillation_loss(h, w, b, tail="uniform"),
    "forward KL on logits": lambda h, w, b: distillation_loss(
        h @ w.T, b, divergence=ForwardKL(), tail="bucket"
    ),
}


def make_batch(num_windows: int, num_tokens: int) -> Batch:
    """Return a batch of random targets: 64 entries and 16 draws of the tail at each position."""
    rng = np.random.default_rng(0)
    num_entries, num_draws = 64, 16
    schema = TargetSchema(
        vocab_size=VOCAB_SIZE,
        tokenizer_vocab_size=VOCAB_SIZE,
        temperatures=(1.0, 2.0),
        head=HeadSchema(max_entries=num_entries),
        samples=SampleSchema(num_draws=num_draws, origin="tail", temperature=1.0, values="float32"),
    )
    windows = []
    for number in range(num_windows):
        count = num_tokens - 1
        ids = rng.permuted(np.tile(np.arange(VOCAB_SIZE), (1, 1)), axis=1)[0]
        drawn_TD = np.sort(ids[num_entries : num_entries + num_draws])[None].repeat(count, axis=0)
        targets = SoftTargets(
            ids_TK=ids[:num_entries][None].repeat(count, axis=0).astype(np.int32),
            logits_TK=-np.sort(rng.exponential(4, (count, num_entries))).astype(np.float32),
            num_entries_T=np.full(count, num_entries, np.int32),
            tail_mass_TG=np.full((count, 2), 0.1, np.float32),
            temperatures=(1.0, 2.0),
            samples=Samples(
                num_samples_T=np.full(count, num_draws, np.int32),
                ids_S=drawn_TD.ravel().astype(np.int32),
                counts_S=np.ones(drawn_TD.size, np.int32),
                logits_S=np.full(drawn_TD.size, -20, np.float32),
            ),
        )
        input_ids_L = rng.integers(0, VOCAB_SIZE, num_tokens).astype(np.int32)
        lengths_S, mask_T = np.array([num_tokens], np.int32), np.ones(count, np.bool_)
        tokens = TokenWindow(
            window_id=hash_window(input_ids_L, lengths_S, mask_T),
            input_ids_L=input_ids_L,
            segment_lengths_S=lengths_S,
            mask_T=mask_T,
            document_ids=(str(number),),
            offset=0,
            source="random",
        )
        windows.append(Window.of(tokens, pack(targets, schema)))
    return collate(windows)


def peak(name: str, num_windows: int, num_tokens: int) -> float:
    """Return how many MB a loss and its gradients take beside hidden states, head and batch."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (name, num_windows, num_tokens))


def _peak(name: str, num_windows: int, num_tokens: int) -> float:
    batch = make_batch(num_windows, num_tokens)
    hidden = torch.randn((num_windows, num_tokens, WIDTH), requires_grad=True)
    weight = (torch.randn((VOCAB_SIZE, WIDTH)) / WIDTH).requires_grad_()
    # The gradients are there in every training step; what counts is what is needed beside them.
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    before = _read("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # The peak is taken anew from here.
    LOSSES[name](hidden, weight, batch).backward()
    return _read("VmHWM") - before


def _read(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def step_times(batch: Batch, rounds: int, num_layers: int) -> dict[str, float]:
    """Return the median seconds of a training step by loss."""
    torch.manual_seed(0)
    student = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=WIDTH,
            intermediate_size=1536,
            num_hidden_layers=num_layers,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        )
    )
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    seconds: dict[str, list[float]] = {name: [] for name in LOSSES}
    for number in range(rounds + 1):
        for name, loss in LOSSES.items():
            started = time.perf_counter()
            hidden = student.model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).last_hidden_state
            loss(hidden, student.lm_head.weight, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            if number:  # The first warms up.
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    chunk = CHUNK_ELEMENTS // VOCAB_SIZE
    one_chunk = peak("cross-entropy on logits", 1, chunk + 1)
    table = Table(
        title=f"{arguments.windows} x {arguments.tokens} tokens, vocabulary {VOCAB_SIZE:,}, width "
        f"{WIDTH}, float32; memory beside hidden states, head and their gradients; "
        f"cross-entropy on the logits of one chunk ({chunk} rows) takes {one_chunk:,.0f} MB"
    )
    for column in ("loss", "MB", "to one chunk", "ms a step", "to cross-entropy"):
        table.add_column(column, justify="left" if column == "loss" else "right")
    times = step_times(
        make_batch(arguments.windows, arguments.tokens), arguments.rounds, arguments.layers
    )
    reference = times["cross-entropy on logits"]
    missed = []
    for name, seconds in times.items():
        memory = peak(name, arguments.windows, arguments.tokens)
        table.add_row(
            name,
            f"{memory:,.0f}",
            f"{memory / one_chunk:.2f}x",
            f"{1000 * seconds:,.0f}",
            f"{seconds / reference:.2f}x",
        )
        is_judged = name.startswith("fused")
        if is_judged and memory > MOST_MEMORY * one_chunk:
            missed.append(f"{name}: memory")
        if is_judged and seconds > MOST_TIME * reference:
            missed.append(f"{name}: time")
    console = Console(highlight=False, width=110)
    console.print(table)
    console.print(
        f"{'MISSED' if missed else 'met   '} fused: at most {MOST_MEMORY}x the memory of "
        f"one chunk and {MOST_TIME}x the time of cross-entropy {'; '.join(missed)}"
    )
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
