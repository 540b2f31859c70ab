"""Arguments that are one of some names or a number in a range, checked before anything uses them.

A name or a number that nobody expects would not fail: it would give another loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from softtargets.errors import InputError, TemperatureError

if TYPE_CHECKING:
    import torch


def check_choice(where: str, value: object, choices: Iterable[str]) -> None:
    """Check that an argument is one of some names.

    Raises:
        InputError: it is not; the message lists them.
    """
    known = sorted(choices)
    if not isinstance(value, str) or value not in known:
        raise InputError(
            where,
            expected=f"one of {', '.join(map(repr, known))}",
            found=repr(value),
            next_step="Pass one of these names.",
        )


def check_number(
    where: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    with_ends: bool = True,
    next_step: str = "Correct the argument.",
) -> None:
    """Check that an argument is a finite number in a range.

    Args:
        where: its name.
        value: a number of Python or numpy, or a tensor of one element.
        low: the least.
        high: the largest.
        with_ends: whether these two are in the range.
        next_step: for the message.

    Raises:
        InputError: it is not.
    """
    number = _as_float(value)
    inside = low <= number <= high if with_ends else low < number < high
    if not (inside and math.isfinite(number)):
        raise InputError(
            where,
            expected=_range_text(low, high, with_ends),
            found=f"{value!r}",
            next_step=next_step,
        )


def check_temperature(value: Any) -> None:
    """Check that a temperature is one at all, whatever a store holds.

    Raises:
        TemperatureError: it is not a positive finite number.
    """
    try:
        check_number("temperature", value, low=0, with_ends=False)
    except InputError as error:
        raise error.restated(
            TemperatureError,
            next_step="Pass one that the store holds, as softtargets info lists them; or any with "
            "tail='full'.",
        ) from None


def check_whole_number(where: str, value: object, *, least: int, next_step: str) -> None:
    """Check that an argument is a whole number that is large enough.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(
            where,
            expected=f"a whole number from {least} on",
            found=repr(value),
            next_step=next_step,
        )


def _as_float(value: Any) -> float:
    """Return a number as a float; NaN for what is none, as a text or a truth value are."""
    if isinstance(value, str | bytes | bool):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return math.nan


def _range_text(low: float, high: float, with_ends: bool) -> str:
    if low == -math.inf:
        return "a finite number"
    if high == math.inf:
        if low == 0 and not with_ends:
            return "a positive number"
        return f"a number from {low:g} on" if with_ends else f"a number above {low:g}"
    return (
        f"a number from {low:g} to {high:g}"
        if with_ends
        else (f"a number between {low:g} and {high:g}")
    )


def check_options(temperature: float, ce_weight: float, confidence_power: float = 0.0) -> None:
    """Check the numbers of a loss, whatever a store holds.

    Raises:
        InputError: a number is out of range.
        TemperatureError: the temperature is not a positive number.
    """
    check_temperature(temperature)
    next_step = "0 is distillation alone, 1 is cross-entropy alone."
    check_number("ce_weight", ce_weight, low=0, high=1, next_step=next_step)
    check_number("confidence_power", confidence_power)


def number_of_targets(
    num_targets: float | torch.Tensor | None, own_targets: int
) -> float | torch.Tensor:
    """Return what the sum over the targets is divided by; see `losses.Loss`.

    Raises:
        InputError: it is not a positive number.
    """
    if num_targets is not None:
        check_number(
            "num_targets",
            num_targets,
            low=0,
            with_ends=own_targets == 0,
            next_step="Pass the targets of the whole step, or omit it for the batch's own.",
        )
    # A sum over no targets is 0, whatever it is divided by.
    return max(1, own_targets) if num_targets is None or own_targets == 0 else num_targets
