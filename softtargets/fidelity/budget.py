"""Which selections fit a number of bytes, and what each keeps of the gradient."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from softtargets.capture.selection import (
    MOST_DRAWS,
    Draws,
    Hybrid,
    Pins,
    Sampled,
    Selection,
    TopK,
    Values,
)
from softtargets.fidelity.gradients import compare_gradients
from softtargets.fidelity.reconstruction import Candidate
from softtargets.fidelity.sample import TeacherSample, bytes_per_token
from softtargets.store.schema import Compression
from softtargets.train.choices import check_choice, check_number
from softtargets.train.sparse import Tail

TAILS: dict[str, Tail] = {"topk": "bucket", "sampled": "sampled", "hybrid": "sampled"}
"""The kinds of selections that are compared, and how their tails are read."""
_FITTED_POSITIONS = 1024
"""Enough to tell sizes, which are means, to some percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """What decides sizes beside the selection."""

    temperatures: tuple[float, ...] = (1.0,)
    values: Values = "steps"
    compression: Compression = "zstd"
    draws: Draws = field(default_factory=Draws)
    """Temperature and seed of draws; their number is what is looked for."""
    pins: Pins = field(default_factory=Pins)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The largest selection of a kind within a budget."""

    selection: Selection
    bytes_per_token: float
    num_positions: int
    degrees: float
    """Angle between the gradients on it and on the full distribution, summed over so many
    positions; see `compare_gradients`."""


def fit_selections(sample: TeacherSample, budget: float, storage: Storage) -> list[Fit]:
    """Return the largest selection of each kind within a budget in bytes a token, best first.

    That is the one with draws whose gradient is least off, as draws average out over a training;
    what is lost without them does not, and stands last. None may fit. Draws from the whole
    vocabulary have no pinned ids, and are left out beside them.
    """
    check_number("budget", budget, low=0, with_ends=False)
    few = sample.first(_FITTED_POSITIONS)
    kinds = [kind for kind in TAILS if kind != "sampled" or not storage.pins.num_entries]
    fits = {kind: fit_to_budget(few, kind, budget, storage) for kind in kinds}
    found = {kind: fit for kind, fit in fits.items() if fit is not None}
    chosen = [
        Candidate(name=kind, selection=selection, tail=TAILS[kind])
        for kind, (selection, _) in found.items()
    ]
    errors = compare_gradients(sample, chosen, [len(sample)]) if chosen else []
    results = [
        Fit(
            selection=found[error.name][0],
            bytes_per_token=found[error.name][1],
            num_positions=error.num_positions,
            degrees=error.degrees,
        )
        for error in errors
    ]
    return sorted(results, key=lambda fit: (fit.selection.draws is None, fit.degrees))


def fit_to_budget(
    sample: TeacherSample, kind: str, budget: float, storage: Storage
) -> tuple[Selection, float] | None:
    """Return the largest selection of a kind within a budget, and its bytes a token.

    Sizes grow with what is kept, so doubling and then halving finds it. None when none fits.
    """
    most = min(sample.teacher.vocab_size - storage.pins.num_entries - 1, MOST_DRAWS)
    best, fitting, size = None, 0, 1
    too_large: int | None = None
    while fitting < size:
        selection = sized(kind, size, storage)
        windows = sample.capture({"": selection}, storage.temperatures, storage.values)[""]
        own = bytes_per_token(windows, storage.compression)
        if own <= budget:
            best, fitting = (selection, own), size
        else:
            too_large = size
        size = min(2 * fitting, most) if too_large is None else (fitting + too_large) // 2
    return best


def sized(kind: str, size: int, storage: Storage) -> Selection:
    """Return a selection of a kind that keeps about so many entries, beside what is pinned."""
    check_choice("kind", kind, TAILS)
    if kind == "topk":
        return TopK(k=size, pins=storage.pins)
    if kind == "sampled":
        return Sampled(draws=replace(storage.draws, num=size))
    draws = replace(storage.draws, num=max(1, size // 2))
    return Hybrid(k=(size + 1) // 2, draws=draws, pins=storage.pins)
