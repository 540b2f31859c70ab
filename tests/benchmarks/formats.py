"""What the layouts of other tools take and lose: a store, exported and imported again.

    python -m tests.benchmarks.formats [STORE]

Without a store it makes one as `tests.benchmarks.layouts` does, of 36,864 tokens. Differences are
between the store and what came back, at temperature 1, over all entries; of renormalised values
the store's own are renormalised first. A store with draws is exported without them, but to plain.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from softtargets.layouts.axolotl import Axolotl
from softtargets.layouts.distillkit import DistillKit
from softtargets.layouts.distillkit_compression import CONFIG_NAME, Compression
from softtargets.layouts.sequences import EntriesView, TokenSequence, Values
from softtargets.store import (
    Stated,
    Store,
    export_axolotl,
    export_distillkit,
    export_plain,
    import_lists,
    import_plain,
)
from tests.benchmarks.layouts import make_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """What came of a store that was written to a layout and read again."""

    name: str
    bytes_per_target: float
    largest: float
    """Difference of log-probabilities, in nats."""
    mean: float
    largest_tail: float | None
    """Difference of tail masses at temperature 1; None where the tail is lost."""
    num_changed: int
    """Targets whose ids are others, or in another order."""
    num_top: int
    """Targets whose first id is another."""


def plain_trip(store: Store, directory: Path) -> tuple[Store, Path, Values]:
    written = export_plain(store.root, directory / "plain")
    return import_plain([written], directory / "plain-back"), written, "full"


def axolotl_trip(values: Values) -> Callable[[Store, Path], tuple[Store, Path, Values]]:
    def trip(store: Store, directory: Path) -> tuple[Store, Path, Values]:
        written = export_axolotl(
            store.root, directory / f"axolotl-{values}", values=values, without_draws=True
        )
        stated = Stated(values=values, temperature=1.0, vocab_size=store.targets.vocab_size)
        back = import_lists([written], directory / f"axolotl-{values}-back", Axolotl(), stated)
        return back, written, values

    return trip


def distillkit_trip(value_format: str) -> Callable[[Store, Path], tuple[Store, Path, Values]]:
    def trip(store: Store, directory: Path) -> tuple[Store, Path, Values]:
        written = export_distillkit(
            store.root,
            directory / f"distillkit-{value_format}",
            value_format=value_format,  # type: ignore[arg-type]
            without_draws=True,
        )
        layout = DistillKit(compression=Compression.read(written / CONFIG_NAME))
        stated = Stated(values="full", temperature=1.0, vocab_size=store.targets.vocab_size)
        output = directory / f"distillkit-{value_format}-back"
        return import_lists([written], output, layout, stated), written, "full"

    return trip


TRIPS = {
    "plain": plain_trip,
    "axolotl, renormalised": axolotl_trip("renormalised"),
    "axolotl, full": axolotl_trip("full"),
    "DistillKit, float32": distillkit_trip("float32"),
    "DistillKit, float16": distillkit_trip("float16"),
}


def measure(store: Store, name: str, directory: Path) -> Trip:
    """Send a store with a head and temperature 1 to a layout and back, and compare."""
    assert store.targets.head is not None
    back, written, values = TRIPS[name](store, directory)
    size = sum(path.stat().st_size for path in written.rglob("*.parquet"))
    view = EntriesView(temperature=1.0, values=values, top_k=store.targets.head.max_entries)
    differences, tails = [], []
    num_changed = num_top = 0
    pairs = zip(_sequences(store, view), _sequences(back, view), strict=True)
    for one, other in pairs:
        assert np.array_equal(one.input_ids_L, other.input_ids_L)
        assert np.array_equal(one.mask_T, other.mask_T)
        kept_TK = one.logprobs_TK > -np.inf
        assert np.array_equal(kept_TK, other.logprobs_TK > -np.inf)
        num_changed += int((one.ids_TK != other.ids_TK).any(axis=1).sum())
        num_top += int((one.ids_TK[:, 0] != other.ids_TK[:, 0]).sum())
        # By id, since equal values may stand in another order.
        differences.append(np.abs(_by_id(one, kept_TK) - _by_id(other, kept_TK)))
        if values == "full":
            tails.append(np.abs(_head(one) - _head(other)))
    flat = np.concatenate(differences)
    return Trip(
        name=name,
        bytes_per_target=size / store.num_positions,
        largest=float(flat.max()),
        mean=float(flat.mean()),
        largest_tail=float(np.concatenate(tails).max()) if tails else None,
        num_changed=num_changed,
        num_top=num_top,
    )


def _sequences(store: Store, view: EntriesView) -> list[TokenSequence]:
    assert store.targets.head is not None
    own = replace(view, top_k=store.targets.head.max_entries)
    return list(own.sequences(list(store)))


def _by_id(sequence: TokenSequence, kept_TK: np.ndarray) -> np.ndarray:
    ids_TK = np.where(kept_TK, sequence.ids_TK, np.iinfo(np.int32).max)
    order = np.argsort(ids_TK, axis=1, kind="stable")
    values_TK = np.take_along_axis(sequence.logprobs_TK, order, axis=1)
    found: np.ndarray = values_TK[values_TK > -np.inf]
    return found


def _head(sequence: TokenSequence) -> np.ndarray:
    found: np.ndarray = np.exp(sequence.logprobs_TK).sum(axis=1)
    return found


def print_trips(store: Store, directory: Path) -> None:
    table = Table(title=f"{store.num_positions:,} targets, {store.targets.describe()}")
    for name in ("layout", "bytes/target", "log-prob error, largest", "mean", "tail mass error",
                 "ids changed", "top-1 changed"):  # fmt: skip
        table.add_column(name, justify="left" if name == "layout" else "right")
    table.add_row("the store", f"{store.num_bytes / store.num_positions:.1f}", *["0"] * 5)
    for name in TRIPS:
        trip = measure(store, name, directory)
        table.add_row(
            name,
            f"{trip.bytes_per_target:.1f}",
            f"{trip.largest:.1e}",
            f"{trip.mean:.1e}",
            "lost" if trip.largest_tail is None else f"{trip.largest_tail:.1e}",
            f"{trip.num_changed:,}",
            f"{trip.num_top:,}",
        )
    Console(highlight=False, width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", nargs="?")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if arguments.store is None:
            print_trips(make_store(directory, 36_864), directory)
        else:
            print_trips(Store.open(arguments.store), directory)


if __name__ == "__main__":
    main()
