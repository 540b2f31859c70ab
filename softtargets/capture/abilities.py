"""What a teacher can tell, so that a selection that needs more is refused before any work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from softtargets.capture.keep.selection import Keep, TopK, max_entries
from softtargets.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a teacher can tell of a position. The defaults are the least that a teacher can.

    That is a list of the likeliest ids with their log-probabilities at temperature 1, as servers
    give it.
    """

    full_logits: bool = False
    """Whether a selection sees the logits of the whole vocabulary, in whatever process it runs.
    Then any rule of one works, --pin and --select topp too."""
    any_temperature: bool = False
    """Whether the logsumexp is known at any temperature."""
    largest_k: int | None = None
    """Most ids that a list of the likeliest has; None if only the vocabulary bounds it."""
    draws: bool = False
    """Whether ids can be drawn from the softmax."""
    hidden_states: bool = False
    """Whether it returns the last hidden states."""
    batch_invariant: bool = False
    """Whether a segment gets the same bits whatever else is in its batch."""


LISTS = Abilities()
"""Of a teacher that lists its likeliest ids."""
ALL_LOGITS = Abilities(full_logits=True, any_temperature=True, draws=True, hidden_states=True)
"""Of a model whose hidden states and logits are tensors here."""


def check_abilities(keep: Keep, abilities: Abilities, name: str) -> None:
    """Check that a teacher can tell what is to be kept.

    Args:
        keep: what is to be kept.
        abilities: of the teacher.
        name: of the teacher, for messages.

    Raises:
        InputError: it cannot; the message names the option, and the nearest ones that work.
    """
    for option, expected, found in _excesses(keep, abilities):
        raise InputError(
            option,
            expected=f"{expected}, of {name}",
            found=found,
            next_step=f"Pass {_options(keep, nearest(keep, abilities))}. A directory of the model "
            "as --teacher can tell all of it.",
        )


def nearest(keep: Keep, abilities: Abilities) -> Keep:
    """Return what a teacher can tell that is nearest to what is asked for."""
    selection = keep.selection
    if any(option in ("--select", "--top-k") for option, _, _ in _excesses(keep, abilities)):
        k = selection.k or TopK().k
        selection = TopK(k=k if abilities.largest_k is None else min(k, abilities.largest_k))
    return replace(
        keep,
        selection=selection,
        temperatures=keep.temperatures if abilities.any_temperature else (1.0,),
        hidden_states=keep.hidden_states and abilities.hidden_states,
    )


def _excesses(keep: Keep, abilities: Abilities) -> Iterator[tuple[str, str, str]]:
    """Yield the options that ask for too much: option, what would be possible, what was found."""
    selection = keep.selection
    is_plain = type(selection) is TopK and not selection.pins.num_entries
    if not is_plain and not abilities.full_logits:
        yield "--select", "topk without --pin, for it lists its likeliest ids", selection.kind
    elif selection.draws is not None and not abilities.draws:
        yield "--select", "a selection without draws", selection.kind
    largest = abilities.largest_k
    num_entries = selection.k and max_entries(selection, selection.k)
    if largest is not None and num_entries > largest:
        yield "--top-k", f"at most {largest}, the longest list", str(num_entries)
    if keep.temperatures != (1.0,) and not abilities.any_temperature:
        grid = ", ".join(f"{one:g}" for one in keep.temperatures)
        yield "--temperature", "1 alone, for it tells no other softmax", grid
    if keep.hidden_states and not abilities.hidden_states:
        yield "--hidden-states", "no hidden states", "the option"


def _options(keep: Keep, near: Keep) -> str:
    """Return what to type to get what is near, where it differs from what was asked for."""
    options = []
    if near.selection != keep.selection:
        options.append(f"--select topk --top-k {near.selection.k}")
    if near.temperatures != keep.temperatures:
        options.append("--temperature 1")
    if near.hidden_states != keep.hidden_states:
        options.append("no --hidden-states")
    return " and ".join(options)
