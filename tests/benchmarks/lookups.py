"""Opening a store of many tiny windows, and looking windows up by their id.

    python -m tests.benchmarks.lookups [--windows 1000000]

writes a store of that many windows of two tokens (two minutes for a million), then measures in a
fresh process: seconds to open, memory, the first look-up (which reads the ids), and warm ones.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from softtargets.store import Store
from softtargets.store.writer import StoreWriter
from softtargets.targets import pack
from softtargets.window import TokenWindow, Window, hash_window

UNIT_WINDOWS = 20_000


def write_store(directory: Path, num_windows: int) -> Path:
    """Write a store of windows [n // 65536, n % 65536], all with the same targets."""
    # Imported here: torch in the process that measures would hide the store's own memory.
    from softtargets.capture.identity import describe_build
    from tests.fakes import FakeTeacher, build_config
    from tests.windows import select_in_numpy, topk_schema

    config = build_config(directory)
    identity = describe_build(config, FakeTeacher(vocab_size=65_536))
    logits_TV = np.random.default_rng(0).standard_normal((1, 65_536)).astype(np.float32)
    targets = select_in_numpy(logits_TV, np.zeros(1, np.int64), 8, (1.0, 2.0))
    packed = pack(targets, topk_schema(vocab_size=65_536))
    segment_lengths_S, mask_T = np.array([2], np.int32), np.ones(1, np.bool_)
    with StoreWriter.hold(config.output, identity) as writer:
        for unit, start in enumerate(range(0, num_windows, UNIT_WINDOWS)):
            windows = []
            for number in range(start, min(num_windows, start + UNIT_WINDOWS)):
                input_ids_L = np.array([number >> 16, number & 65_535], np.int32)
                tokens = TokenWindow(
                    window_id=hash_window(input_ids_L, segment_lengths_S, mask_T),
                    input_ids_L=input_ids_L,
                    segment_lengths_S=segment_lengths_S,
                    mask_T=mask_T,
                    document_ids=(str(number),),
                    offset=0,
                    source="numbers",
                )
                windows.append(Window.of(tokens, packed))
            writer.write_unit(unit, windows, {})
        num_units = -(-num_windows // UNIT_WINDOWS)
        writer.commit(num_units, "fake", {"windows": num_windows, "tokens": 2 * num_windows})
    return config.output


def peak_memory() -> int:
    """Return the most memory this process has had, in kB; getrusage counts its parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def measure(path: Path, answer: Any) -> None:
    """Open and look up, in a process of its own so that its memory is its own."""
    before = peak_memory()
    started = time.perf_counter()
    store = Store.open(path)
    num_windows = len(store)
    opened = time.perf_counter() - started
    rng = random.Random(0)
    times = []
    for _ in range(51):
        number = rng.randrange(num_windows)
        input_ids_L = np.array([number >> 16, number & 65_535], np.int32)
        key = hash_window(input_ids_L, np.array([2], np.int32), np.ones(1, np.bool_))
        started = time.perf_counter()
        window = store[key]
        times.append(time.perf_counter() - started)
        assert window.document_ids == (str(number),)
    memory = peak_memory()
    answer.put((opened, times[0], statistics.median(times[1:]), max(times[1:]), before, memory))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = write_store(Path(name), arguments.windows)
        context = multiprocessing.get_context("spawn")
        answer = context.Queue()
        process = context.Process(target=measure, args=(path, answer))
        process.start()
        opened, first, median, worst, before, memory = answer.get()
        process.join()
    print(f"{arguments.windows:,} windows")
    print(f"open             {opened:.3f} s")
    print(f"first look-up    {first:.3f} s (reads and sorts the ids)")
    print(f"warm look-ups    {1e3 * median:.2f} ms median, {1e3 * worst:.2f} ms worst of 50")
    print(f"memory           {memory / 1e3:.0f} MB at most, {before / 1e3:.0f} MB of it imports")


if __name__ == "__main__":
    main()
