"""Tests that need a package which `make test` does not install."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import pytest


def skip_without(
    package: str,
    items: Iterable[pytest.Item],
    *,
    directory: Path,
    marker: str | None = None,
    unless: str,
    reason: str,
) -> None:
    """Skip the tests of a directory, or those with a marker, where a package is missing.

    If `unless` is a variable of the environment, they run and fail.
    """
    if find_spec(package) is not None or unless in os.environ:
        return
    for item in items:
        if item.path.parent == directory and (marker is None or item.get_closest_marker(marker)):
            item.add_marker(pytest.mark.skip(reason=reason))
