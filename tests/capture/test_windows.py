from __future__ import annotations

from collections import Counter

import pytest

from softtargets.capture import Windowing
from softtargets.capture.corpus import Document
from softtargets.errors import InputError
from tests.fakes import ByteTokenizer


def cut(*texts: str, length: int = 4) -> tuple[list[tuple[str, str, int]], Counter[str]]:
    documents = [Document(text=t, document_id=str(i), source="s") for i, t in enumerate(texts)]
    counts: Counter[str] = Counter()
    windows = Windowing(sequence_length=length).windows(documents, ByteTokenizer(), counts)
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
