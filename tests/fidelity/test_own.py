from __future__ import annotations

from pathlib import Path

import pytest

from softtargets.capture import Draws, Hybrid, Pins, Sampled, Threshold, TopK, TopP
from softtargets.capture.keep.selection import Selection
from softtargets.errors import InputError
from softtargets.fidelity.budget import Storage, sized
from softtargets.fidelity.measure import QUICK, measure
from softtargets.fidelity.own import OwnSelection
from softtargets.fidelity.reconstruction import Candidate, reconstruct
from softtargets.fidelity.sample import bytes_per_token
from softtargets.store import Store
from tests.fakes import FakeTeacher, build_store
from tests.fidelity.test_fidelity import make_sample
from tests.golden import GOLDEN

SELECTIONS: list[Selection] = [
    TopK(k=5, pins=Pins(ids=(7,), label=True)),
    TopP(p=0.8, k=9),
    Sampled(draws=Draws(num=9, seed=3)),
    Sampled(draws=Draws(num=9, design="independent")),
    Threshold(draws=Draws(num=9)),
    Hybrid(k=4, draws=Draws(num=6, temperature=2.0), pins=Pins(label=True)),
]


@pytest.mark.slow
@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_manifest_tells_the_selection(tmp_path: Path, selection: Selection) -> None:
    store = build_store(tmp_path, selection=selection, values="float32")
    own = OwnSelection.of(store)
    assert own.selection == selection
    assert (own.temperatures, own.values, own.temperature) == ((1.0, 2.0), "float32", 1.0)
    sample = make_sample(tmp_path)
    chosen = [one for one in own.candidates if one.tail != "bucket"]
    found = reconstruct(sample, chosen, own.temperatures, values=own.values, as_stored=True)
    assert {one.temperature for one in found} == {1.0, 2.0}
    windows = sample.capture({"": selection}, (1.0, 2.0), "float32")[""]
    assert {one.bytes_per_token for one in found} == {bytes_per_token(windows)}


def test_a_store_that_does_not_tell_is_refused() -> None:
    store = Store.open(GOLDEN / "topk-without-tail-1.1" / "store")
    with pytest.raises(InputError, match="whose manifest says what was selected"):
        OwnSelection.of(store)


def test_misspelt_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="section: expected one of 'bias', 'frozen-noise'"):
        list(measure(FakeTeacher(), [], QUICK, ["gradient"]))
    with pytest.raises(
        InputError, match="kind: expected one of 'hybrid', 'sampled', 'threshold', 'topk'"
    ):
        sized("top-k", 4, Storage())
    with pytest.raises(InputError, match="tail: expected one of 'bucket'"):
        Candidate(name="", selection=TopK(), tail="renormalise")  # type: ignore[arg-type]
