"""Whether two things were made in the same way, and in what they differ first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softtargets.errors import IdentityError


def check_identity(
    expected: Mapping[str, Any], found: Mapping[str, Any], where: str, next_step: str
) -> None:
    """Check that two identities are the same.

    Raises:
        IdentityError: naming the first field that differs.
    """
    difference = first_difference(expected, found)
    if difference is not None:
        field, wanted, there = difference
        raise IdentityError(
            f"{where}, field {field}",
            expected=f"{wanted!r}",
            found=f"{there!r}",
            next_step=next_step,
        )


def first_difference(left: Any, right: Any, field: str = "") -> tuple[str, Any, Any] | None:
    """Return (field, left value, right value) of the first difference between two JSON values."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        # A field that both have says more than one that is missing.
        for key in sorted(
            {*left, *right}, key=lambda key: (key not in left or key not in right, key)
        ):
            inner = first_difference(
                left.get(key), right.get(key), f"{field}.{key}" if field else str(key)
            )
            if inner is not None:
                return inner
        return None
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            inner = first_difference(one, other, f"{field}[{index}]")
            if inner is not None:
                return inner
        return None
    return None if left == right else (field, left, right)
