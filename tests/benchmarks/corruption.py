"""Damage a small store in many seeded ways: each is detected by verify, or changes no array.

    python -m tests.benchmarks.corruption [--tries 10000]

Exits with 1 when damage passed unseen, an error was not a typed one, or memory or time blew up.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from softtargets.errors import SoftTargetsError
from softtargets.store import Store, verify
from tests.corruptions import DAMAGES
from tests.fakes import build_store

MOST_SECONDS = 30
MOST_MEMORY_GROWTH_KB = 200_000


def digest(path: Path) -> str:
    """Return a hash of everything a student would be given."""
    state = hashlib.sha256()
    for window in Store.open(path):
        targets = window.targets
        state.update(window.window_id.encode())
        for array in (
            window.input_ids_L, window.mask_T, targets.ids_TK, targets.logits_TK,
            targets.num_entries_T, targets.tail_mass_TG, targets.label_logit_T,
            targets.label_rank_T,
        ):  # fmt: skip
            state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def try_damage(sound: Path, expected: str, seed: int, directory: Path) -> tuple[str, str, str]:
    """Return (kind of damage, outcome, detail) for one seed."""
    rng = random.Random(seed)
    damage = DAMAGES[seed % len(DAMAGES)]
    store = directory / "store"
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(sound, store)
    what = damage(store, rng)
    kind = damage.__name__
    try:
        if not verify(store).is_sound:
            return kind, "detected", what
        same = digest(store) == expected
    except SoftTargetsError:
        return kind, "detected", what
    return kind, "harmless" if same else "UNSEEN", what


def run(tries: int, first_seed: int = 0) -> tuple[dict[str, Counter[str]], list[str]]:
    """Return outcomes by kind of damage, and what must not have happened."""
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    bad = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        sound = build_store(directory).root.rename(directory / "sound")
        expected = digest(sound)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(first_seed, first_seed + tries):
            started = time.monotonic()
            kind, outcome, what = try_damage(sound, expected, seed, directory)
            outcomes[kind][outcome] += 1
            if outcome == "UNSEEN" or time.monotonic() - started > MOST_SECONDS:
                bad.append(f"seed {seed}: {kind} of {what}: {outcome}")
        growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        if growth > MOST_MEMORY_GROWTH_KB:
            bad.append(f"memory grew by {growth:,} kB")
    return outcomes, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=10_000)
    arguments = parser.parse_args()
    outcomes, bad = run(arguments.tries)
    table = Table(title=f"{arguments.tries:,} corruptions of a small store")
    for column in ("damage", "tried", "detected", "harmless", "unseen"):
        table.add_column(column, justify="left" if column == "damage" else "right")
    outcomes["all"] = sum(outcomes.values(), Counter())
    for kind, counts in outcomes.items():
        table.add_row(
            kind, f"{counts.total():,}",
            *(f"{counts[name]:,}" for name in ("detected", "harmless", "UNSEEN")),
        )  # fmt: skip
    console = Console(highlight=False)
    console.print(table)
    console.print("\n".join(bad) or "Every one was detected by a typed error, or changed nothing.")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
