"""The options that say what is kept of the teacher's distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from softtargets.errors import InputError

if TYPE_CHECKING:
    from softtargets.capture import Pins
    from softtargets.capture.keep.selection import Selection
    from softtargets.capture.teacher_tokenizer import Tokenizer

SELECTION_OPTIONS = (
    click.option(
        "--select",
        type=click.Choice(["topk", "topp", "sampled", "hybrid", "threshold"]),
        help="What to keep. topk: the highest logits. topp: the fewest highest logits that reach "
        "--top-p. sampled: draws with counts. hybrid: the highest logits, and draws from the rest. "
        "threshold: every id of probability 1/--draws or more, and draws from the rest that stand "
        "for 1/--draws each.  [default: hybrid; topk when --top-k is given without --draws]",
    ),
    click.option(
        "--top-k",
        type=int,
        help="How many of the highest logits to keep at each position. With topp, the most.  "
        "[default: 16 for hybrid, else 64]",
    ),
    click.option("--top-p", type=float, help="Probability for topp to reach.  [default: 0.98]"),
    click.option("--min-k", type=int, help="Fewest logits for topp to keep.  [default: 1]"),
    click.option(
        "--draws",
        type=int,
        help="How many ids to draw at each position. With threshold, the most that are kept or "
        "drawn.  [default: 16 for hybrid, 32 for sampled, 17 for threshold]",
    ),
    click.option(
        "--draw-design",
        type=click.Choice(["systematic", "independent"]),
        help="How to draw. systematic: evenly spread, for less noise. independent: with "
        "replacement, as releases before format 1.3 did.  [default: systematic]",
    ),
    click.option("--seed", type=int, help="Seed of the draws.  [default: 0]"),
    click.option(
        "--select-temperature",
        type=float,
        help="Which --temperature ids are drawn at, and topp adds up probabilities at.  [default: "
        "1, or the first --temperature if 1 is none of them]",
    ),
    click.option(
        "--pin",
        "pins",
        multiple=True,
        metavar="label|eos|ID",
        help="Id to keep exactly at every position: the label, the tokenizer's end of text, or a "
        "number. Repeat for more.",
    ),
    click.option(
        "--label-logits/--no-label-logits",
        default=True,
        help="Whether to keep the label's logit and rank.",
    ),
)
_NAMES = {
    "top_k": "--top-k",
    "top_p": "--top-p",
    "min_k": "--min-k",
    "draws": "--draws",
    "draw_design": "--draw-design",
    "seed": "--seed",
    "select_temperature": "--select-temperature",
    "pins": "--pin",
}
SELECTION_NAMES = frozenset({"select", *_NAMES})
"""What the parameters are called that make a selection together."""
_SELECTIONS = {
    "topk": {"top_k", "pins"},
    "topp": {"top_k", "top_p", "min_k", "select_temperature", "pins"},
    "sampled": {"draws", "draw_design", "seed", "select_temperature"},
    "hybrid": {"top_k", "draws", "draw_design", "seed", "select_temperature", "pins"},
    "threshold": {"draws", "seed", "select_temperature"},
}
"""Which options each selection has."""


def parse_selection(options: Mapping[str, Any], tokenizer: Tokenizer) -> Selection:
    """Return the selection; an option that it does not have is refused, not ignored.

    Raises:
        InputError: an option does not belong to the selection, or is not one.
    """
    from softtargets.capture import Draws, Hybrid, Sampled, Threshold, TopK, TopP

    given = {name for name in _NAMES if options[name] not in (None, ())}
    is_topk = "top_k" in given and "draws" not in given
    kind = options["select"] or ("topk" if is_topk else "hybrid")
    for name in sorted(given - _SELECTIONS[kind]):
        having = [one for one, names in _SELECTIONS.items() if name in names]
        raise InputError(
            _NAMES[name],
            expected=f"--select {' or '.join(having)} with it",
            found=f"--select {kind}, which does not use it",
            next_step="Omit it, or choose another selection.",
        )

    def chosen(**names: str) -> dict[str, Any]:
        return {own: options[name] for own, name in names.items() if name in given}

    if options["select_temperature"] is None and 1.0 not in options["temperatures"]:
        options = {**options, "select_temperature": options["temperatures"][0]}
        given |= {"select_temperature"}
    pins = _parse_pins(options["pins"], tokenizer)
    drawn = chosen(num="draws", seed="seed", temperature="select_temperature", design="draw_design")
    if kind == "topk":
        return TopK(**chosen(k="top_k"), pins=pins)
    if kind == "topp":
        names = {"p": "top_p", "k_min": "min_k", "k": "top_k", "temperature": "select_temperature"}
        return TopP(**chosen(**names), pins=pins)
    if kind == "sampled":
        return Sampled(draws=Draws(**drawn))
    if kind == "threshold":
        return Threshold(draws=replace(Threshold().draws, **drawn))
    return Hybrid(**chosen(k="top_k"), draws=replace(Hybrid().draws, **drawn), pins=pins)


def selection_text(selection: Selection) -> str:
    """Return the options that stand for a selection as they are typed; without pins and seed."""
    parts = [f"--select {selection.kind}"]
    if selection.k:
        parts.append(f"--top-k {selection.k}")
    if selection.draws is not None:
        parts.append(f"--draws {selection.draws.num}")
        if selection.draws.temperature != 1:
            parts.append(f"--select-temperature {selection.draws.temperature:g}")
        if selection.draws.design == "independent":
            parts.append("--draw-design independent")
    return " ".join(parts)


def _parse_pins(names: Sequence[str], tokenizer: Tokenizer) -> Pins:
    from softtargets.capture import Pins

    ids = []
    for name in names:
        if name == "eos":
            ids.append(_end_of_text(tokenizer))
        elif name.isdecimal():
            ids.append(int(name))
        elif name != "label":
            raise InputError(
                "--pin",
                expected="label, eos or the number of an id",
                found=name,
                next_step="Pass one of them.",
            )
    return Pins(ids=tuple(sorted(set(ids))), label="label" in names)


def _end_of_text(tokenizer: Tokenizer) -> int:
    found = tokenizer.end_of_text_id
    if found is None:
        raise InputError(
            "--pin eos",
            expected="a tokenizer with a token for the end of a text",
            found="one without",
            next_step="Pass the number of the id.",
        )
    return found
