"""Imports that were changed by chance end in a store or in an error of the package, and nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from softtargets import Store
from tests.layouts.cases import CASES
from tests.layouts.import_fuzz import fuzz, sound_import

TRIES = 60


@pytest.mark.slow
@pytest.mark.parametrize("layout", CASES)
def test_changed_imports_are_refused_or_sound(
    layout: str, store: Store, tmp_path: Path, rng: np.random.Generator
) -> None:
    sound = sound_import(layout, store, tmp_path / "written")
    found = fuzz(sound, rng, TRIES, tmp_path / "tries")
    assert found["CorpusError"] > TRIES / 4
    assert found["imported"] > 0 or layout == "plain"
