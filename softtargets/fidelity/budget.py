"""Which selections fit a number of bytes, and what each keeps of the gradient."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count

from softtargets.capture.keep.selection import (
    MOST_DRAWS,
    Draws,
    Hybrid,
    Pins,
    Sampled,
    Selection,
    Threshold,
    TopK,
    Values,
)
from softtargets.fidelity.gradients import compare_gradients
from softtargets.fidelity.reconstruction import Candidate
from softtargets.fidelity.sample import TeacherSample, bytes_per_token
from softtargets.store.schema import Compression
from softtargets.train.choices import check_choice, check_number
from softtargets.train.sparse import Tail

TAILS: dict[str, Tail] = {
    "topk": "bucket",
    "sampled": "sampled",
    "hybrid": "sampled",
    "threshold": "sampled",
}
"""The kinds of selections that are compared, and how their tails are read."""
_FITTED_POSITIONS = 1024
"""Enough to tell sizes, which are means, to some percent."""
_MOST_FITS = 4
"""How often they are fitted anew so that all positions use a budget up."""
_USED_UP = 0.97


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
    vocabulary and threshold draws have no pinned ids, and are left out beside them.
    """
    check_number("budget", budget, low=0, with_ends=False)
    has_pins = storage.pins.num_entries > 0
    kinds = [kind for kind in TAILS if kind in ("topk", "hybrid") or not has_pins]
    fits = {kind: _fit_to_all(sample, kind, budget, storage) for kind in kinds}
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

    None when none fits.
    """
    measure = _Sizes(sample, kind, storage)
    size = measure.largest_within(budget)
    return None if size is None else (sized(kind, size, storage), measure[size])


def _fit_to_all(
    sample: TeacherSample, kind: str, budget: float, storage: Storage
) -> tuple[Selection, float] | None:
    """Return what `fit_to_budget` does, about: it looks at few positions, and sizes at all.

    What the first positions cost differs from what all do, so another budget is fitted to them.
    """
    few, all_ = (_Sizes(one, kind, storage) for one in (sample.first(_FITTED_POSITIONS), sample))
    best: int | None = None
    aim = budget
    for attempt in count():
        size = few.largest_within(aim)
        if size is None or size == best:
            break
        is_within = all_[size] <= budget
        if is_within and (best is None or size > best):
            best = size
        # One that is well within may be too small; one that is too large must not be the last.
        if (is_within and all_[size] > _USED_UP * budget) or (attempt >= _MOST_FITS and best):
            break
        aim = few[size] * budget / all_[size]
    return None if best is None else (sized(kind, best, storage), all_[best])


class _Sizes:
    """Bytes a token of a kind of selections on a sample, by what is kept; each measured once."""

    def __init__(self, sample: TeacherSample, kind: str, storage: Storage) -> None:
        self._sample = sample
        self._kind = kind
        self._storage = storage
        self._known: dict[int, float] = {}
        self._most = min(sample.teacher.vocab_size - storage.pins.num_entries - 1, MOST_DRAWS)

    def __getitem__(self, size: int) -> float:
        if size not in self._known:
            selection, storage = sized(self._kind, size, self._storage), self._storage
            captured = self._sample.capture({"": selection}, storage.temperatures, storage.values)
            self._known[size] = bytes_per_token(captured[""], storage.compression)
        return self._known[size]

    def largest_within(self, budget: float) -> int | None:
        """Return the largest size within a budget; None when none is.

        Sizes grow with what is kept, so doubling and then halving finds it.
        """
        fitting, size = 0, 1
        too_large: int | None = None
        while fitting < size:
            if self[size] <= budget:
                fitting = size
            else:
                too_large = size
            size = min(2 * fitting, self._most) if too_large is None else (fitting + too_large) // 2
        return fitting or None


def sized(kind: str, size: int, storage: Storage) -> Selection:
    """Return a selection of a kind that keeps about so many entries, beside what is pinned."""
    check_choice("kind", kind, TAILS)
    if kind == "topk":
        return TopK(k=size, pins=storage.pins)
    if kind == "sampled":
        return Sampled(draws=replace(storage.draws, num=size))
    if kind == "threshold":
        return Threshold(draws=replace(storage.draws, num=size))
    draws = replace(storage.draws, num=max(1, size // 2))
    return Hybrid(k=(size + 1) // 2, draws=draws, pins=storage.pins)
