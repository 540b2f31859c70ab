"""Damage small stores of every kind in many seeded ways: verify detects it, or no array changes.

    python -m tests.benchmarks.corruption [--tries 10000] [--forgeries 2000]

A forgery is damage to a shard after which every checksum in the manifest is made right again, as an
enemy would: what no promise of the format contradicts is then another store, and accepted.

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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from softtargets.errors import SoftTargetsError
from softtargets.store import Store, verify
from tests.corruptions import DAMAGES, Damage, forge
from tests.fakes import build_store
from tests.golden import GOLDEN, arrays_of

MOST_SECONDS = 30
MOST_MEMORY_GROWTH_KB = 200_000


def digest(path: Path) -> str:
    """Return a hash of everything a student would be given."""
    state = hashlib.sha256()
    for name, array in arrays_of(Store.open(path)).items():
        state.update(name.encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def sound_stores(directory: Path) -> dict[Path, str]:
    """Return stores of every kind, each with its digest."""
    built = build_store(directory).root.rename(directory / "sound")
    return {path: digest(path) for path in (built, *sorted(GOLDEN.glob("*/store")))}


def try_damage(
    sound: Path, expected: str, damage: Damage, seed: int, directory: Path
) -> tuple[str, str]:
    """Return (outcome, detail) for one seed."""
    rng = random.Random(seed)
    store = directory / "store"
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(sound, store)
    what = damage(store, rng)
    try:
        if not verify(store).is_sound:
            return "detected", what
        same = digest(store) == expected
    except SoftTargetsError:
        return "detected", what
    if damage is forge:
        return "harmless" if same else "accepted", what
    return "harmless" if same else "UNSEEN", what


def run(tries: int, damages: Sequence[Damage]) -> tuple[dict[str, Counter[str]], list[str]]:
    """Return outcomes by kind of damage, and what must not have happened."""
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    bad = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        stores = list(sound_stores(directory).items())
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(tries):
            started = time.monotonic()
            damage = damages[seed % len(damages)]
            sound, expected = stores[seed // len(damages) % len(stores)]
            outcome, what = try_damage(sound, expected, damage, seed, directory)
            outcomes[damage.__name__][outcome] += 1
            if outcome == "UNSEEN" or time.monotonic() - started > MOST_SECONDS:
                bad.append(f"seed {seed}: {damage.__name__} of {sound}, {what}: {outcome}")
        growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        if growth > MOST_MEMORY_GROWTH_KB:
            bad.append(f"memory grew by {growth:,} kB")
    return outcomes, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=10_000)
    parser.add_argument("--forgeries", type=int, default=2_000)
    arguments = parser.parse_args()
    outcomes, bad = run(arguments.tries, DAMAGES)
    forged, bad_forged = run(arguments.forgeries, [forge])
    table = Table(title=f"{arguments.tries:,} corruptions of small stores, and forgeries")
    columns = ("detected", "harmless", "accepted", "UNSEEN")
    for column in ("damage", "tried", *columns):
        table.add_column(column, justify="left" if column == "damage" else "right")
    outcomes["all but forgeries"] = sum(outcomes.values(), Counter())
    for kind, counts in (outcomes | forged).items():
        numbers = [f"{counts[name]:,}" for name in columns]
        table.add_row(kind, f"{counts.total():,}", *numbers)
    console = Console(highlight=False)
    console.print(table)
    bad += bad_forged
    console.print(
        "\n".join(bad) or "Every corruption was detected by a typed error, or changed nothing."
    )
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
