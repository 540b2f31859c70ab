"""Damage and forge small stores in many seeded ways: it is detected, or no array changes.

    python -m tests.benchmarks.corruption [docs/trust.md] [--stores written|all]
                                          [--tries 10000] [--forgeries 2000] [--seed 0]

takes the golden stores in turn, by default those of the format versions that are still written. A
forgery is damage after which every checksum is made right again, as an enemy would: what no promise
of the format contradicts is then another store, and accepted.

With a page, its table is written anew. Exits with 1 when damage passed unseen, an error was not a
typed one, or memory or time blew up.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from softtargets.errors import SoftTargetsError
from softtargets.store import Store, verify
from softtargets.store.versions import WRITTEN_VERSIONS
from tests.benchmarks.page_table import put_table
from tests.corruptions import DAMAGES, FORGERIES, Damage
from tests.golden import GOLDEN, arrays_of

MOST_SECONDS = 30
MOST_MEMORY_GROWTH_KB = 200_000
TABLE = "table of corruptions"
_OUTCOMES = ("detected", "harmless", "accepted", "UNSEEN", "traceback")


def golden_stores(versions: Sequence[str] | None = None) -> list[Path]:
    """Return the golden stores of these format versions, or of every one."""
    stores = sorted(GOLDEN.glob("*/store"))
    if versions is None:
        return stores
    return [
        path
        for path in stores
        if json.loads((path / "manifest.json").read_text())["format_version"] in versions
    ]


def digest(path: Path) -> str:
    """Return a hash of everything a student would be given."""
    state = hashlib.sha256()
    for name, array in arrays_of(Store.open(path)).items():
        state.update(name.encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


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
    except Exception:  # noqa: BLE001 - an error without a type is what is looked for
        return "traceback", f"{what}\n{traceback.format_exc()}"
    if same:
        return "harmless", what
    return "accepted" if damage in FORGERIES else "UNSEEN", what


def run(
    tries: int,
    damages: Sequence[Damage],
    stores: Sequence[Path],
    seed: int = 0,
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Return outcomes by kind of damage, and what must not have happened."""
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    bad = []
    digests = [digest(path) for path in stores]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as name:
        for number in range(tries):
            started = time.monotonic()
            turn, place = divmod(number, len(damages))
            damage, chosen = damages[place], turn % len(stores)
            own = seed + number
            outcome, what = try_damage(stores[chosen], digests[chosen], damage, own, Path(name))
            outcomes[damage.__name__][outcome] += 1
            seconds = time.monotonic() - started
            if outcome in ("UNSEEN", "traceback") or seconds > MOST_SECONDS:
                where = f"seed {own}: {damage.__name__} of {stores[chosen].parent.name}"
                bad.append(f"{where}, {what}: {outcome}, {seconds:.0f} s")
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    if growth > MOST_MEMORY_GROWTH_KB:
        bad.append(f"memory grew by {growth:,} kB")
    return outcomes, bad


def table(damaged: dict[str, Counter[str]], forged: dict[str, Counter[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield f"| damage | tried | {' | '.join(_OUTCOMES)} |"
    yield f"|---|{'---:|' * (1 + len(_OUTCOMES))}"
    for title, outcomes in (("all damage", damaged), ("all forgeries", forged)):
        for kind, counts in outcomes.items():
            yield _row(f"`{kind}`", counts)
        yield _row(f"**{title}**", sum(outcomes.values(), Counter()))


def _row(name: str, counts: Counter[str]) -> str:
    numbers = (counts.total(), *(counts[outcome] for outcome in _OUTCOMES))
    return f"| {name} | {' | '.join(f'{number:,}' for number in numbers)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, nargs="?")
    parser.add_argument("--stores", choices=("written", "all"), default="written")
    parser.add_argument("--tries", type=int, default=10_000)
    parser.add_argument("--forgeries", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    stores = golden_stores(WRITTEN_VERSIONS if arguments.stores == "written" else None)
    damaged, bad = run(arguments.tries, DAMAGES, stores, arguments.seed)
    forged, bad_forged = run(arguments.forgeries, FORGERIES, stores, arguments.seed)
    lines = list(table(damaged, forged))
    print("\n".join(lines))
    bad += bad_forged
    print("\n".join(bad) or "Damage was detected by a typed error, or changed nothing.")
    if arguments.page is not None:
        put_table(arguments.page, TABLE, lines)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
