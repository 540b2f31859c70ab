"""Slices of a corpus: all its documents, the repeats that a set finds, its units, little held."""

from __future__ import annotations

import gzip
import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softtargets.capture import Corpus, piece_keys
from softtargets.capture.kept_pieces import share_units
from softtargets.capture.piece_keys import KeyWriter, find_repeats
from softtargets.capture.slice_files import SliceFiles
from softtargets.errors import LimitError
from softtargets.window import cut_windows
from tests.capture.plans import cut_small, plan_files, write_files
from tests.fakes import TEXTS, FakeTeacher, build_config, write_corpus
from tests.places.test_toy_place import InMemory


@pytest.mark.parametrize("slice_bytes", [1, 300, 1000, 10**6])
def test_slices_have_the_documents_of_the_corpus(tmp_path: Path, slice_bytes: int) -> None:
    corpus = Corpus(paths=write_files(tmp_path / "corpus"))
    slices = corpus.slices(slice_bytes)
    found = [document for own in slices for document in corpus.documents(own=own)]
    assert found == list(corpus.documents())
    sizes = [sum(part.content_bytes for part in own.parts) for own in slices]
    assert all(size >= slice_bytes for size in sizes[:-1])
    assert abs(sum(sizes) - corpus.content_bytes) < 20
    assert (len(slices) == 1) == (slice_bytes == 10**6)


def test_a_slice_may_grow_as_much_as_the_files_before_it_let_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read at once is read in slices."""
    monkeypatch.setenv("SOFTTARGETS_MAX_CORPUS_BYTES", "1000")
    plain, packed = write_corpus(tmp_path / "a.jsonl", TEXTS * 40), tmp_path / "b.jsonl.gz"
    with gzip.open(packed, "wt") as file:
        file.writelines(['{"text": "the same again"}\n'] * 2_000)
    corpus = Corpus(paths=(plain, packed, plain))
    slices = corpus.slices(1)
    sizes = [path.stat().st_size for path in (plain, packed)]
    assert [own.bytes_before for own in slices] == [0, sizes[0], sum(sizes)]
    found = [document for own in slices for document in corpus.documents(own=own)]
    assert found == list(corpus.documents())
    with pytest.raises(LimitError, match="expected at most 1,000 unpacked bytes"):
        list(Corpus(paths=(packed,)).documents())


IDS = st.lists(st.integers(0, 40), max_size=60)


@given(
    st.lists(IDS, min_size=1, max_size=5), st.sampled_from([1, 2, 8]), st.integers(1, 9), st.data()
)
def test_repeats_are_those_that_a_set_finds(
    slices: list[list[int]], num_partitions: int, most_keys: int, data: st.DataObject
) -> None:
    """Whatever the slices and the partitions, and however few keys are held."""
    rng = random.Random(data.draw(st.integers()))
    ids = [f"{rng.getrandbits(128):032x}" for _ in range(41)]
    # Some agree in their first half.
    ids[1::2] = [one[:16] + f"{rng.getrandbits(64):016x}" for one in ids[:-1:2]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(piece_keys, "MOST_KEYS", most_keys)
        patch.setattr(piece_keys, "RUN_KEYS", data.draw(st.integers(1, 9)))
        held: list[int] = []

        def split(keys: Any, real: Any = piece_keys._split) -> Any:
            held.append(len(keys))
            return real(keys)

        patch.setattr(piece_keys, "_split", split)
        files = SliceFiles.begin(InMemory(), {})
        for number, own in enumerate(slices):
            writer = KeyWriter(files, number, num_partitions)
            for start in range(0, len(own), 3):
                writer.add(ids[one] for one in own[start : start + 3])
            writer.flush()
            files.put_marker("mapped", number, {"runs": writer.runs})
        found: set[tuple[int, int]] = set()
        for partition in range(num_partitions):
            flushes = find_repeats(files, partition, len(slices), num_partitions)
            for flush, counts in enumerate(flushes):
                for number, num_repeats in counts:
                    places = files.repeats(number, partition, flush, num_repeats)
                    found |= {(number, int(place)) for place in places}
    seen: set[int] = set()
    expected = set()
    for number, own in enumerate(slices):
        for place, one in enumerate(own):
            if one in seen:
                expected.add((number, place))
            seen.add(one)
    assert found == expected


@given(st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=6), st.integers(1, 30))
def test_shares_are_cut_as_all_windows_are(slices: list[list[int]], unit_tokens: int) -> None:
    """Each slice has the units that begin in it, wherever they end."""
    everything = [length for own in slices for length in own]
    windows = [range(length) for length in everything]
    expected = [list(map(len, group)) for group in cut_windows(windows, unit_tokens)]  # type: ignore[type-var]
    found: list[list[int]] = []
    begins = 0
    for own, share in zip(slices, share_units(map(np.array, slices), unit_tokens), strict=True):
        rest = windows[begins + share.num_before :]
        groups = islice(cut_windows(rest, unit_tokens), share.num_units)  # type: ignore[type-var]
        assert share.first_unit == len(found)
        found += [list(map(len, group)) for group in groups]
        begins += len(own)
    assert found == expected


def test_how_much_is_held_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither keys, whether all differ or all are one, nor pieces; a set would hold every key."""
    cut_small(monkeypatch)
    most = 16
    monkeypatch.setattr(piece_keys, "MOST_KEYS", most)
    held: list[int] = []

    def split(keys: Any, real: Any = piece_keys._split) -> Any:
        held.append(len(keys))
        return real(keys)

    def put_pieces(
        self: SliceFiles, number: int, chunk: int, pieces: Sequence[Any],
        real: Any = SliceFiles.put_pieces,
    ) -> None:  # fmt: skip
        assert len(pieces) <= 3
        real(self, number, chunk, pieces)

    monkeypatch.setattr(piece_keys, "_split", split)
    monkeypatch.setattr(SliceFiles, "put_pieces", put_pieces)
    for num_texts in (40, 200):
        for name, texts in (
            ("other", [f"text {number}" for number in range(num_texts)]),
            ("same", ["the same"] * num_texts),
        ):
            held.clear()
            directory = tmp_path / f"{name}-{num_texts}"
            directory.mkdir()
            path = write_corpus(directory / "a.jsonl", texts)
            config = build_config(directory, corpus=Corpus(paths=(path,)))
            plan_files(config, FakeTeacher(), InMemory())
            assert sum(held) >= num_texts
            assert max(held) <= 3 * most
