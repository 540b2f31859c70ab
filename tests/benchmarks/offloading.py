"""Memory of a teacher whose layers, or all of it, stay on disk.

    python -m tests.benchmarks.offloading [docs/teachers.md]

loads SmolLM2-135M in float32 with maps of devices over CPU and disk, and captures a window of 512
tokens. Every figure is the most that a process of its own had resident over what it had before, in
one run. Prints a table, and writes it into the page.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from pathlib import Path
from typing import Any

from softtargets.capture import Keep, TeacherConfig, TopK, TransformersTeacher
from softtargets.demo.smollm import teacher_directory
from tests.benchmarks.lookups import peak_memory
from tests.benchmarks.page_table import put_table
from tests.benchmarks.servers import segments

TABLE = "offloading"
NUM_TOKENS = 512
_MODULES = ("model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head")
MAPS: dict[str, dict[str, str] | None] = {
    "nothing": None,
    "the layers": {name: "disk" if name == "model.layers" else "cpu" for name in _MODULES},
    "everything": dict.fromkeys(_MODULES, "disk"),
}
"""What is on disk, and where the modules are then."""


def measure(device_map: dict[str, str] | None, answer: Any) -> None:
    """Load and capture, in a process of its own so that its memory is its own."""
    config = TeacherConfig(
        name=str(teacher_directory()),
        dtype="float32",
        device="auto" if device_map else "cpu",
        device_map=json.dumps(device_map) if device_map else None,
    )
    teacher = TransformersTeacher(config)
    own = segments(NUM_TOKENS)[:1]
    keep = Keep(selection=TopK(k=64), temperatures=(1.0,), label_logits=True)
    before = peak_memory()
    teacher.load()
    teacher.capture(own, keep)
    answer.put(peak_memory() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, nargs="?")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    lines = ["| on disk | most memory resident |", "|---|---:|"]
    for name, device_map in MAPS.items():
        answer = context.Queue()
        process = context.Process(target=measure, args=(device_map, answer))
        process.start()
        lines.append(f"| {name} | {answer.get() / 1000:.0f} MB |")
        process.join()
    print("\n".join(lines))
    if arguments.page is not None:
        put_table(arguments.page, TABLE, lines)


if __name__ == "__main__":
    main()
