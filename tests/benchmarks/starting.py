"""How soon the first batch comes from a store of many shards, and what memory many epochs take.

    python -m tests.benchmarks.starting [--shards 10000] [--epochs 100]

writes a store with a window of 512 random tokens, k = 64, in each of its shards (three minutes for
10,000), then measures in fresh processes, imports left out: seconds to open it, to its first batch,
and to the first batch after resuming in the middle of an epoch, medians of 5; and the memory of a
process after some and after all of many shuffled epochs over a store of 200 shards. Exits with 1
when a goal is missed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from softtargets import SoftTargetDataset, Store
from tests.golden import write_store
from tests.windows import make_window, topk_schema

LENGTH, BATCH = 512, 8
MOST_SECONDS, MOST_GROWTH = 0.5, 1.05


def write(directory: Path, num_shards: int) -> Path:
    """Write a window a shard: one set of targets, other tokens each."""
    rng = np.random.default_rng(0)
    schema = topk_schema(64, vocab_size=49_152)
    packed = make_window(rng, schema, num_tokens=LENGTH)[0].packed
    units = ([window_of(rng, packed, number)] for number in range(num_shards))
    return write_store(directory, schema, units).root


def window_of(rng: np.random.Generator, packed: Any, number: int) -> Any:
    from softtargets.window import TokenWindow, Window, hash_window

    input_ids_L = rng.integers(0, 49_152, LENGTH).astype(np.int32)
    segment_lengths_S, mask_T = np.array([LENGTH], np.int32), np.ones(LENGTH - 1, np.bool_)
    tokens = TokenWindow(
        window_id=hash_window(input_ids_L, segment_lengths_S, mask_T),
        input_ids_L=input_ids_L,
        segment_lengths_S=segment_lengths_S,
        mask_T=mask_T,
        document_ids=(str(number),),
        offset=0,
        source="random",
    )
    return Window.of(tokens, packed)


def start(path: Path, state: dict[str, Any] | None, answer: Any) -> None:
    """Open a store and take a batch; the last answer is a state in the middle of the epoch."""
    started = time.perf_counter()
    store = Store.open(path)
    opened = time.perf_counter() - started
    dataset = SoftTargetDataset(store, shuffle=True, batch_size=BATCH)
    if state is not None:
        dataset.load_state_dict(state)
    next(iter(dataset))
    seconds = time.perf_counter() - started
    middle = dataset.state_dict() | {"place": len(store) // 2 // BATCH * BATCH}
    answer.put((opened, seconds, middle))


def run_epochs(path: Path, epochs: int, answer: Any) -> None:
    """Answer the resident memory, in kB, after each epoch."""
    dataset = SoftTargetDataset(path, shuffle=True, batch_size=BATCH)
    found = []
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        for batch in dataset:
            batch.soft_targets(1.0)
        status = Path("/proc/self/status").read_text()
        found.append(int(status.split("VmRSS:")[1].split()[0]))
    answer.put(found)


def in_process(work: Any, *arguments: Any) -> Any:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=work, args=(*arguments, answer))
    process.start()
    found = answer.get()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=100)
    arguments = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory() as name:
        path = write(Path(name) / "store", arguments.shards)
        state = None
        for what in ("first batch", "after resuming"):
            found = [in_process(start, path, state) for _ in range(5)]
            opened, seconds = (statistics.median(one[at] for one in found) for at in (0, 1))
            state = found[0][2]
            missed |= seconds > MOST_SECONDS
            print(
                f"{what} from {arguments.shards:,} shards: {seconds:.2f} s, of it {opened:.2f} s "
                f"to open it (goal {MOST_SECONDS:g} s)"
            )
        few = write(Path(name) / "few", 200)
        memory = in_process(run_epochs, few, arguments.epochs)
    growth = memory[-1] / memory[min(4, len(memory) - 1)]
    missed |= growth > MOST_GROWTH
    marks = sorted({1, 5, 25, arguments.epochs // 2, arguments.epochs})
    text = ", ".join(f"{memory[at - 1] / 1e3:.0f} MB after {at}" for at in marks if at > 0)
    print(f"memory over epochs of 200 windows: {text}; {growth:.3f} times that after 5")
    sys.exit(missed)


if __name__ == "__main__":
    main()
