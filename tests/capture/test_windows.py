from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softtargets.capture import Windowing
from softtargets.capture.documents import Conversation, Document
from softtargets.errors import CorpusError, InputError
from softtargets.store import verify
from softtargets.window import TokenWindow
from tests.fakes import ByteTokenizer, build_store


def cut(
    *texts: str, length: int = 4, **options: Any
) -> tuple[list[tuple[str, str, int]], Counter[str]]:
    documents = [Document(content=t, document_id=str(i), source="s") for i, t in enumerate(texts)]
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


@pytest.mark.slow
@given(st.integers(0, 60), st.integers(2, 12), st.data())
def test_with_overlap_every_token_is_a_target_once(
    num_tokens: int, length: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(1, length - 1))
    text = "".join(chr(33 + number) for number in range(num_tokens))
    documents = [Document(content=text, document_id="0", source="s")]
    windowing = Windowing(sequence_length=length, overlap=overlap)
    targets: Counter[int] = Counter()
    for window in windowing.windows(documents, ByteTokenizer(), Counter()):
        assert (
            bytes(window.input_ids_L.tolist()).decode()
            == (text[window.offset : window.offset + length])
        )
        targets.update(window.offset + 1 + np.flatnonzero(window.mask_T))
    assert targets == dict.fromkeys(range(1, num_tokens), 1)


@pytest.mark.slow
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
    documents = [Document(content="abcde", document_id="0", source="s")]
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


def pack(*texts: str, length: int = 8, **options: Any) -> list[TokenWindow]:
    documents = [Document(content=t, document_id=str(i), source="s") for i, t in enumerate(texts)]
    windowing = Windowing(sequence_length=length, kind="pack", **options)
    return list(windowing.windows(documents, ByteTokenizer(), Counter()))


def texts_of(window: TokenWindow) -> list[str]:
    """Return the text of every segment."""
    parts = np.split(window.input_ids_L, np.cumsum(window.segment_lengths_S)[:-1])
    return [bytes(part.tolist()).decode() for part in parts]


def test_documents_are_packed_in_order_while_they_fit() -> None:
    windows = pack("abc", "defg", "hi", "jklmnop", "q", "rs")
    assert [texts_of(one) for one in windows] == [["abc", "defg"], ["hi"], ["jklmnop"], ["rs"]]
    first = windows[0]
    assert first.segment_lengths_S.tolist() == [3, 4]
    assert first.document_ids == ("0", "1")
    # The last token of a document is followed by one of another: nobody's target.
    assert first.mask_T.tolist() == [True, True, False, True, True, True]
    assert windows[1].document_ids == ("2",)


def test_a_part_of_a_long_document_begins_a_window() -> None:
    """So that a window's offset is that of its first token, for all of them."""
    windows = pack("ab", "cdefghijklm", "cdefghij" + "xy", "z!")
    assert [texts_of(one) for one in windows] == [["ab"], ["cdefghij"], ["klm"], ["xy", "z!"]]
    assert [one.offset for one in windows] == [0, 0, 8, 8]
    assert windows[3].document_ids == ("2", "3")


def test_documents_of_two_files_share_no_window() -> None:
    documents = [Document(content="abc", document_id="0", source="s"),
                 Document(content="def", document_id="0", source="t")]  # fmt: skip
    windowing = Windowing(sequence_length=8, kind="pack")
    windows = list(windowing.windows(documents, ByteTokenizer(), Counter()))
    assert [one.source for one in windows] == ["s", "t"]


@pytest.mark.slow
@given(st.lists(st.text("abcdef", max_size=20), max_size=12), st.integers(2, 9), st.data())
def test_packing_trains_on_what_splitting_trains_on(
    texts: list[str], length: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, length - 1))
    found = []
    kinds: tuple[Literal["split", "pack"], ...] = ("split", "pack")
    for kind in kinds:
        documents = [
            Document(content=t, document_id=str(i), source="s") for i, t in enumerate(texts)
        ]
        windowing = Windowing(sequence_length=length, kind=kind, overlap=overlap)
        counts: Counter[str] = Counter()
        pieces = []
        for window in windowing.windows(documents, ByteTokenizer(), counts):
            assert len(window) <= length
            assert len(window.document_ids) == len(window.segment_lengths_S)
            ends = np.cumsum(window.segment_lengths_S)
            for start, stop, name in zip([0, *ends[:-1]], ends, window.document_ids, strict=True):
                mask = window.mask_T[start : stop - 1].tolist()
                pieces.append((window.input_ids_L[start:stop].tolist(), mask, name))
        assert counts["tokens"] == sum(len(ids) for ids, _, _ in pieces)
        found.append(pieces)
    assert found[0] == found[1]


def talk(*turns: str) -> Conversation:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": turn} for n, turn in enumerate(turns)]
    return Conversation(messages=messages, tools=None, chat_template=None, train_on="assistant")


def said(window: TokenWindow) -> bytes:
    """Return the tokens that a window's targets are about."""
    assert window.positions_T is not None
    return bytes(window.input_ids_L[window.positions_T + 1].tolist())


@pytest.mark.parametrize("kind", ["split", "pack", "truncate"])
def test_only_what_the_assistant_says_is_a_target(kind: Any) -> None:
    contents = [talk("Hi", "Yes", "So?", "No"), talk("One", "Two"), talk("alone")]
    documents = [
        Document(content=one, document_id=str(n), source="s") for n, one in enumerate(contents)
    ]
    counts: Counter[str] = Counter()
    windowing = Windowing(sequence_length=100, kind=kind)
    windows = list(windowing.windows(documents, ByteTokenizer(), counts, lists_positions=True))
    assert b"".join(map(said, windows)) == b"Yes\nNo\nTwo\n"
    assert all(one.mask_T.all() for one in windows)
    expected = [("0", "1")] if kind == "pack" else [("0",), ("1",)]
    assert [one.document_ids for one in windows] == expected
    assert counts["untargeted_windows"] == 1


def test_a_cut_conversation_loses_no_target_but_the_first_of_a_piece() -> None:
    document = Document(content=talk("Hello there", "abcdefgh"), document_id="0", source="s")
    for overlap, expected in ((0, b"abcdegh\n"), (1, b"abcdefgh\n"), (9, b"abcdefgh\n")):
        windowing = Windowing(sequence_length=17, overlap=overlap)
        counts: Counter[str] = Counter()
        windows = windowing.windows([document], ByteTokenizer(), counts, lists_positions=True)
        parts = [said(window) for window in windows]
        assert len(parts) > 1 or overlap == 0
        assert b"".join(parts) == expected


def test_token_ids_are_windows_as_they_are_and_others_refused() -> None:
    documents = [
        Document(content=np.array(ids, np.int32), document_id=str(n), source="s")
        for n, ids in enumerate(([7, 0, 255], [256], []))
    ]
    told: list[CorpusError] = []
    counts: Counter[str] = Counter()
    windows = list(Windowing().windows(documents, ByteTokenizer(), counts, on_invalid=told.append))
    assert [one.input_ids_L.tolist() for one in windows] == [[7, 0, 255]]
    assert counts["empty_documents"] == 1
    assert [str(one) for one in told] == [
        "s, document 1: expected token ids below 256, as the teacher's tokenizer has; found 256. "
        "Tokenise with the teacher's tokenizer, or leave such documents out with --on-invalid skip."
    ]
