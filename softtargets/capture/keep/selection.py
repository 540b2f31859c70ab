"""Selections: what of the teacher's distribution is kept at every position."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from softtargets.errors import InputError
from softtargets.targets import LAST_HIDDEN, FeatureSchema, TargetSchema

if TYPE_CHECKING:
    import torch

Values = Literal["steps", "float32"]
Design = Literal["independent", "systematic"]
MOST_DRAWS = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """Ids that a head keeps at every position, however unlikely."""

    ids: tuple[int, ...] = ()
    label: bool = False
    """Whether the label is kept too."""

    @property
    def num_entries(self) -> int:
        """Return how many entries they take at most."""
        return len(self.ids) + self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Ids drawn from the softmax, kept with their counts.

    A systematic design draws by evenly spread numbers, which one uniform number shifts: an id's
    count is N times its probability, rounded up or down at random. An independent one draws with
    replacement. Both are unbiased; the systematic one has about half the noise.

    What is drawn is a function of the window's content, the position, the distribution and the
    seed: a rerun draws the same, in whatever batches.

    At the temperature T that they are drawn at, the counts are unbiased estimates. At another
    temperature U of the grid they are weighed anew by their logits. That is unbiased with lossless
    logits. With logits in steps, a weight's expectation is off by a factor exp(e) with
    |e| <= |1/U - 1/T| / 128, as a drawn logit is within 1/128 nat; and beside a head, whose logits
    are within 1/32 nat, |e| <= |1/U - 1/T| / 128 + (1/U + 1/T) / 32.
    """

    num: int = 32
    """How many at every position."""
    temperature: float = 1.0
    """Of the softmax that is drawn from; one of the grid."""
    seed: int = 0
    design: Design = "systematic"
    """How one draw depends on another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entries:
    """Which of the highest logits a selection keeps: all, unless it says otherwise."""

    def needed(self, top_logits_NK: torch.Tensor, logits_NV: torch.Tensor) -> torch.Tensor | None:
        """Return which of the `k` highest logits are kept, [N, K]; None for all.

        The first always is.

        Args:
            top_logits_NK: the highest logits, falling.
            logits_NV: all of them, which must stay as they are.
        """
        del top_logits_NK, logits_NV
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK(_Entries):
    """Keep the `k` highest logits of every position, and the mass of the rest."""

    kind: ClassVar = "topk"
    draws: ClassVar = None
    k: int = 64
    pins: Pins = field(default_factory=Pins)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopP(_Entries):
    """Keep the fewest highest logits that reach a mass, and the mass of the rest."""

    kind: ClassVar = "topp"
    draws: ClassVar = None
    p: float = 0.98
    """The mass that the kept entries reach, unless there are more than `k` of them."""
    temperature: float = 1.0
    """At which the mass is taken; one of the grid."""
    k_min: int = 1
    k: int = 64
    pins: Pins = field(default_factory=Pins)

    def needed(self, top_logits_NK: torch.Tensor, logits_NV: torch.Tensor) -> torch.Tensor:
        """Return those before which the mass is not reached."""
        scaled_NK = top_logits_NK / self.temperature
        lse_N1 = (logits_NV / self.temperature).logsumexp(dim=1, keepdim=True)
        before_NK = (scaled_NK - lse_N1).exp().cumsum(dim=1).roll(1, dims=1)
        is_needed_NK = before_NK < self.p
        is_needed_NK[:, : self.k_min] = True
        return is_needed_NK


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled(_Entries):
    """Keep draws from the whole vocabulary: an unbiased estimate of every probability.

    At temperatures other than the draws' it is unbiased up to the rounding of logits: see `Draws`.
    Anshumann et al. 2025, "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs".
    """

    kind: ClassVar = "sampled"
    k: ClassVar = 0
    pins: ClassVar = Pins()
    draws: Draws = field(default_factory=Draws)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hybrid(_Entries):
    """Keep the `k` highest logits exactly, and draws from the rest of the vocabulary.

    Unbiased as draws from the whole are, with the same bound at other temperatures, and with the
    noise of the tail alone. The default: see docs/targets.md for the evidence.
    """

    kind: ClassVar = "hybrid"
    k: int = 16
    draws: Draws = field(default_factory=lambda: Draws(num=16))
    pins: Pins = field(default_factory=Pins)


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold(_Entries):
    """Keep every id of probability 1/N or more, and draws from the rest that stand for 1/N each.

    N is the number of draws. There are at most N entries and draws together, and few where the
    teacher is sure. The likeliest id is kept even below 1/N. Unbiased at the draws' temperature,
    and up to the rounding of logits at others: see `Draws`.
    """

    kind: ClassVar = "threshold"
    k: ClassVar = 0
    pins: ClassVar = Pins()
    draws: Draws = field(default_factory=lambda: Draws(num=17))


Selection = TopK | TopP | Sampled | Hybrid | Threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """All that is kept of a position."""

    selection: Selection
    temperatures: tuple[float, ...]
    """At which the softmax over the vocabulary is to be known."""
    label_logits: bool = True
    """Whether the label's logit and rank are kept."""
    hidden_states: bool = False
    """Whether the teacher's last hidden states are kept."""
    of_all_tokens: bool = False
    """Whether they are kept of every token that is read, and not of the targets alone."""
    layers: tuple[FeatureSchema, ...] = ()
    """Whose hidden states are kept beside them: features layer_N; or last_hidden, of a teacher that
    keeps no output head."""

    @classmethod
    def of(cls, selection: Selection, targets: TargetSchema) -> Keep:
        """Return what a store with a schema needs."""
        rows = {one.name: one.rows for one in targets.features}.get(LAST_HIDDEN)
        layers = tuple(one for one in targets.features if one.layer is not None)
        if targets.num_classes:
            layers, rows = targets.features, None
        return cls(
            selection=selection,
            temperatures=targets.temperatures,
            label_logits=targets.label_logits,
            hidden_states=rows is not None,
            of_all_tokens=rows == "tokens",
            layers=layers,
        )


def describe_selection(selection: Selection) -> dict[str, Any]:
    """Return a selection as JSON, for the identity."""
    parts = {"kind": selection.kind, **asdict(selection)}
    if selection.draws is not None and selection.draws.design == "independent":
        # Manifests of older releases know no other.
        del parts["draws"]["design"]
    if not selection.pins.num_entries:
        parts.pop("pins", None)
    elif "pins" in parts:
        parts["pins"]["ids"] = list(selection.pins.ids)
    return parts


def max_entries(selection: Selection, vocab_size: int) -> int:
    """Return how many entries of a vocabulary a selection keeps at most."""
    if isinstance(selection, Threshold):
        return min(selection.draws.num, vocab_size)
    return selection.k + selection.pins.num_entries


def check_selection(selection: Selection, vocab_size: int, temperatures: Sequence[float]) -> None:
    """Check that a selection fits a vocabulary and a grid of temperatures.

    Raises:
        InputError: a number is out of range; the message names the option.
    """
    for option, promise, found, holds in _promises(selection, vocab_size, temperatures):
        if not holds:
            raise InputError(
                option,
                expected=promise,
                found=str(found),
                next_step="softtargets build --help has the defaults.",
            )


def _promises(
    selection: Selection, vocab_size: int, temperatures: Sequence[float]
) -> Iterator[tuple[str, str, object, bool]]:
    """Yield option, promise, what was found, and whether the promise holds."""
    pins, draws = selection.pins, selection.draws
    outside = [one for one in pins.ids if not 0 <= one < vocab_size]
    yield "--pin", f"ids below the teacher's vocabulary size, {vocab_size}", outside, not outside
    yield "--pin", "ids that differ", pins.ids, len(set(pins.ids)) == len(pins.ids)
    if not isinstance(selection, Sampled | Threshold):
        # A hybrid's head leaves something to draw from.
        most = vocab_size - pins.num_entries - (draws is not None)
        beside = " that the pinned ids and the draws leave" if most < vocab_size else ""
        promise = f"a number from 1 to the teacher's vocabulary size, {most}{beside}"
        yield "--top-k", promise, selection.k, 1 <= selection.k <= most
    if isinstance(selection, TopP):
        yield "--top-p", "a mass above 0 and below 1", selection.p, 0 < selection.p < 1
        holds = 1 <= selection.k_min <= selection.k
        yield "--min-k", f"a number from 1 to --top-k, {selection.k}", selection.k_min, holds
    if draws is not None:
        yield "--draws", f"a number from 1 to {MOST_DRAWS}", draws.num, 1 <= draws.num <= MOST_DRAWS
        yield "--seed", "a number from 0 to 2^53 - 1", draws.seed, 0 <= draws.seed < 1 << 53
    if isinstance(selection, Threshold):
        holds = selection.draws.design == "systematic"
        yield "--draw-design", "systematic, with --select threshold", selection.draws.design, holds
    drawn_at = selection if isinstance(selection, TopP) else draws
    if drawn_at is not None:
        grid = ", ".join(f"{one:g}" for one in temperatures)
        holds = drawn_at.temperature in temperatures
        yield "--select-temperature", f"one of the grid: {grid}", drawn_at.temperature, holds


def check_temperatures(temperatures: tuple[float, ...]) -> tuple[float, ...]:
    """Return the grid in rising order, without doubles.

    Raises:
        InputError: it is empty, or one of them is not a positive finite number.
    """
    if not temperatures or not all(0 < one < math.inf for one in temperatures):
        raise InputError(
            "--temperature",
            expected="one or more positive numbers",
            found=", ".join(f"{one:g}" for one in temperatures) or "none",
            next_step="1 and 2 serve most students.",
        )
    return tuple(sorted({float(one) for one in temperatures}))
