from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softtargets.capture import Windowing
from softtargets.capture.corpus import Document
from softtargets.errors import InputError
from softtargets.store import verify
from tests.fakes import ByteTokenizer, build_store


def cut(
    *texts: str, length: int = 4, **options: Any
) -> tuple[list[tuple[str, str, int]], Counter[str]]:
    documents = [Document(text=t, document_id=str(i), source="s") for i, t in enumerate(texts)]
    counts: Counter[str] = Counter()
    windowing = Windowing(sequence_length=length, **options)
    windows = windowing.windows(documents, ByteTokenizer(), counts)
    return [
        (bytes(window.input_ids_L.tolist()).decode(), window.document_ids[0], window.offset)
        for window in windows
    ], counts


def test_documents_are_cut_in_order() -> None:
    windows, counts = cut("abcdefghij", "xy")
    assert windows == [("abcd", "0", 0), ("efgh", "0", 4), ("ij", "0", 8), ("xy", "1", 0)]
    assert counts["tokens"] == 12


def test_nothing_is_lost_without_being_counted() -> None:
    windows, counts = cut("", "abcde", "abcd", "z", "abcd", "")
    assert windows == [("abcd", "1", 0)]
    assert counts == {
        "documents": 6, "empty_documents": 2, "windows": 1, "tokens": 4,
        "single_tokens": 2, "repeated_windows": 2,
    }  # fmt: skip


def test_truncation_keeps_the_first_piece_and_counts_the_rest() -> None:
    windows, counts = cut("abcdefghij", "xy", "", "z", kind="truncate")
    assert windows == [("abcd", "0", 0), ("xy", "1", 0)]
    assert (counts["truncated_tokens"], counts["tokens"], counts["single_tokens"]) == (6, 6, 1)


def test_overlapping_pieces_begin_before_the_end_of_the_last() -> None:
    windows, _ = cut("abcdefghij", "xyz", overlap=2)
    assert [text for text, _, _ in windows] == ["abcd", "cdef", "efgh", "ghij", "xyz"]
    assert [text for text, _, _ in cut("abcde", overlap=3)[0]] == ["abcd", "bcde"]
    assert [text for text, _, _ in cut("abcd", overlap=3)[0]] == ["abcd"]


@given(st.integers(0, 60), st.integers(2, 12), st.data())
def test_with_overlap_every_token_is_a_target_once(
    num_tokens: int, length: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(1, length - 1))
    text = "".join(chr(33 + number) for number in range(num_tokens))
    documents = [Document(text=text, document_id="0", source="s")]
    windowing = Windowing(sequence_length=length, overlap=overlap)
    targets: Counter[int] = Counter()
    for window in windowing.windows(documents, ByteTokenizer(), Counter()):
        assert (
            bytes(window.input_ids_L.tolist()).decode()
            == (text[window.offset : window.offset + length])
        )
        targets.update(window.offset + 1 + np.flatnonzero(window.mask_T))
    assert targets == dict.fromkeys(range(1, num_tokens), 1)


@pytest.mark.parametrize("options", [{"overlap": 2}, {"kind": "truncate"}])
def test_other_windows_make_another_store(tmp_path: Path, options: dict[str, Any]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    plain = build_store(tmp_path / "a")
    store = build_store(tmp_path / "b", windowing=Windowing(sequence_length=16, **options))
    assert store.fingerprint != plain.fingerprint
    assert verify(store.root).is_sound
    assert options.items() <= store.manifest.identity["windowing"].items()


@pytest.mark.parametrize(
    "options", [{"overlap": 4}, {"overlap": -1}, {"kind": "truncate", "overlap": 1}]
)
def test_an_overlap_that_does_not_go_on_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"--overlap: expected a number from 0 to \d"):
        Windowing(sequence_length=4, **options)


def test_a_window_knows_its_targets() -> None:
    documents = [Document(text="abcde", document_id="0", source="s")]
    window = next(Windowing(sequence_length=5).windows(documents, ByteTokenizer(), Counter()))
    assert window.mask_T.tolist() == [True] * 4
    assert window.segment_lengths_S.tolist() == [5]


def test_more_documents_than_the_tokenizer_takes_at_once() -> None:
    texts = [f"{number:05}" for number in range(1000)]
    windows, _ = cut(*texts, length=8)
    assert [text for text, _, _ in windows] == texts


def test_a_length_without_targets_is_refused() -> None:
    with pytest.raises(InputError, match="--sequence-length: expected at least 2"):
        Windowing(sequence_length=1)
