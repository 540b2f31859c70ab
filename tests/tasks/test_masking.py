"""Masks: their statistics, and that they are a pure function of content, seed and copy."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softtargets.capture import BuildConfig, Corpus, Windowing, build
from softtargets.capture.corpus_reading import read_windows
from softtargets.capture.teacher_tokenizer import TransformersTokenizer
from softtargets.capture.unused import UnusedTally
from softtargets.errors import CorpusError, InputError
from softtargets.store import Store
from softtargets.targets import Int32
from softtargets.tasks.masked_lm.masked_capture import MaskedCapture
from softtargets.tasks.masked_lm.masked_teacher import MaskedTeacher
from softtargets.tasks.masked_lm.masked_windows import word_starts
from softtargets.tasks.masked_lm.masking import Masking, token_weights
from softtargets.window import TokenWindow, content_hash
from tests.fakes import TEXTS, ByteTokenizer, FakeTeacher, shard_bytes, write_corpus
from tests.tasks.masked import (
    FAMILIES,
    POSITIONS,
    byte_pairs,
    masked_config,
    masked_teacher,
    save_masked_model,
    word_pieces,
)

MASK = 4
IDS = np.arange(5, 1005, dtype=np.int32)
_DEVIATIONS = 5
"""Of a share's standard deviation; once in two million tests is one farther off."""


def masking(**changes: Any) -> Masking:
    defaults: dict[str, Any] = {
        "probability": 0.15, "seed": 0, "mask_id": MASK, "replacements_P": IDS
    }  # fmt: skip
    return Masking(**(defaults | changes))


def text(number: int, length: int) -> tuple[Int32, str]:
    """Return random tokens, and what stands for their hash."""
    ids_L = np.random.default_rng(number).choice(IDS, length).astype(np.int32)
    return ids_L, f"{number:032x}"


def assert_share(found: int, of: int, share: float) -> None:
    assert abs(found - share * of) < _DEVIATIONS * sqrt(of * share * (1 - share))


@pytest.mark.slow
@pytest.mark.parametrize(("length", "probability"), [(200, 0.15), (17, 0.15), (9, 0.4), (5, 1.0)])
def test_so_many_are_masked_and_so_they_are_replaced(length: int, probability: float) -> None:
    kinds: Counter[str] = Counter()
    num_windows = 4000 // length
    for number in range(num_windows):
        ids_L, content = text(number, length)
        for copy in range(4):
            own = masking(probability=probability).mask(
                ids_L, np.ones(length, np.bool_), content, copy
            )
            positions_T = own.positions_T
            assert (np.diff(positions_T) > 0).all()
            # Rounded up or down, and so never a whole token off.
            assert abs(len(positions_T) - probability * length) < 1
            np.testing.assert_array_equal(own.label_ids_T, ids_L[positions_T])
            others_L = np.setdiff1d(np.arange(length), positions_T)
            np.testing.assert_array_equal(own.input_ids_L[others_L], ids_L[others_L])
            read_T = own.input_ids_L[positions_T]
            kinds["mask"] += int((read_T == MASK).sum())
            kinds["same"] += int((read_T == own.label_ids_T).sum())
            kinds["all"] += len(positions_T)
    # What is rounded at random varies by half a token in a window at most.
    expected = probability * length * num_windows * 4
    assert abs(kinds["all"] - expected) <= _DEVIATIONS * sqrt(num_windows * 4) / 2
    assert_share(kinds["mask"], kinds["all"], 0.8)
    # A random token is the same one once in a thousand times.
    assert_share(kinds["same"], kinds["all"], 0.1 + 0.1 / len(IDS))


@pytest.mark.slow
def test_each_token_and_each_replacement_is_as_likely_as_any_other() -> None:
    chosen_L, replaced = np.zeros(20), Counter[int]()
    ids_L, content = text(0, 20)
    few = masking(replacements_P=IDS[:4])
    num_copies = 3000
    for copy in range(num_copies):
        own = few.mask(ids_L, np.ones(20, np.bool_), content, copy)
        chosen_L[own.positions_T] += 1
        read_T = own.input_ids_L[own.positions_T]
        replaced.update(read_T[np.isin(read_T, IDS[:4])].tolist())
    # 3 of 20 in every copy.
    assert (abs(chosen_L - 0.15 * num_copies) < _DEVIATIONS * sqrt(num_copies * 0.15 * 0.85)).all()
    total = sum(replaced.values())
    for one in IDS[:4].tolist():
        assert_share(replaced[one], total, 0.25)


def test_what_may_not_be_masked_is_not_and_one_is_at_least() -> None:
    for number in range(200):
        ids_L, content = text(number, 6)
        may_L = np.random.default_rng(number).random(6) < 0.5
        may_L[number % 6] = True
        own = masking(probability=0.01).mask(ids_L, may_L, content, number)
        assert len(own.positions_T) == 1
        assert may_L[own.positions_T].all()


def test_a_mask_is_a_function_of_content_seed_and_copy() -> None:
    ids_L, content = text(3, 60)
    may_L = np.ones(60, np.bool_)
    first = masking().mask(ids_L, may_L, content, 1)
    again = masking().mask(ids_L, may_L, content, 1)
    np.testing.assert_array_equal(first.input_ids_L, again.input_ids_L)
    others = [
        masking().mask(ids_L, may_L, content, 2),
        masking(seed=1).mask(ids_L, may_L, content, 1),
        masking().mask(ids_L, may_L, text(4, 60)[1], 1),
    ]
    for other in others:
        assert not np.array_equal(first.positions_T, other.positions_T)


@pytest.mark.slow
def test_rare_tokens_are_masked_as_much_more_often_as_their_weights_say() -> None:
    documents = [np.repeat(IDS[:2], (128, 1))]
    weights_W = token_weights(documents, 1005, (0, MASK))
    assert weights_W[IDS[0]] == pytest.approx(128**-0.7)
    assert weights_W[IDS[1]] == weights_W[IDS[2]] == 1
    assert weights_W[MASK] == weights_W[0] == 0
    ids_L = np.repeat(IDS[:2], (20, 1))
    is_rare = 0
    num_copies = 3000
    for copy in range(num_copies):
        own = masking(probability=0.01, weights_W=weights_W).mask(
            ids_L, np.ones(21, np.bool_), text(0, 1)[1], copy
        )
        is_rare += int(IDS[1] in own.label_ids_T)
    assert_share(is_rare, num_copies, 1 / (1 + 20 * 128**-0.7))


@pytest.mark.parametrize(("make", "ending"), [(word_pieces, "##"), (byte_pairs, None)])
def test_words_are_masked_whole(make: Any, ending: str | None, tmp_path: Path) -> None:
    tokenizer = make()
    tokenizer.save_pretrained(tmp_path)
    loaded = TransformersTokenizer(tmp_path, trust_remote_code=False)
    starts_W = word_starts(loaded.vocabulary(), loaded.vocab_size)
    many = 0
    for number, words in enumerate(TEXTS):
        encoded = tokenizer(words, add_special_tokens=False)
        ids_L = np.array(encoded["input_ids"], np.int32)
        starts_L = [
            place == 0 or not token.startswith(ending)
            if ending
            else " " in words[start : start + 1]
            for place, (token, (start, _)) in enumerate(
                zip(encoded.tokens(), encoded.encodings[0].offsets, strict=True)
            )
        ]
        word_L = np.cumsum(starts_L)
        for copy in range(20):
            own = masking(starts_word_W=starts_W, probability=0.3, seed=number).mask(
                ids_L, np.ones(len(ids_L), np.bool_), f"{number:x}", copy
            )
            chosen = set(word_L[own.positions_T].tolist())
            assert len(own.positions_T) == sum(int((word_L == one).sum()) for one in chosen)
            assert len(own.positions_T) <= 0.3 * len(ids_L) + 1 or len(chosen) == 1
            many += len(own.positions_T) > len(chosen)
    assert many > 20


def windows_of(
    config: BuildConfig, teacher: MaskedTeacher
) -> tuple[list[TokenWindow], Counter[str]]:
    counts: Counter[str] = Counter()
    return list(read_windows(config, teacher.tokenizer, counts, UnusedTally())), counts


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> MaskedTeacher:
    return masked_teacher(save_masked_model(tmp_path_factory.mktemp("bert"), "Bert"))


@pytest.mark.parametrize("changes", [{}, {"kind": "truncate"}, {"overlap": 5}])
def test_windows_stand_between_special_tokens(
    tmp_path: Path, bert: MaskedTeacher, changes: dict[str, Any]
) -> None:
    windowing = Windowing(**{"sequence_length": 20, **changes})
    config = masked_config(tmp_path, MaskedCapture(maskings=3), windowing=windowing)
    windows, counts = windows_of(config, bert)
    assert len({window.window_id for window in windows}) == len(windows) == counts["windows"]
    assert counts["tokens"] == sum(len(window) for window in windows)
    whole = {
        f"{number}": ids for number, ids in enumerate(bert.tokenizer.encode_batch(list(TEXTS)))
    }
    originals = Counter[tuple[str, int]]()
    for window in windows:
        assert content_hash(window) == window.window_id
        ids_L, positions_T = window.input_ids_L, window.target_positions_T
        assert (ids_L[0], ids_L[-1], len(ids_L) <= 20) == (2, 3, True)
        assert ((positions_T > 0) & (positions_T < len(ids_L) - 1)).all()
        original_L = ids_L.copy()
        original_L[positions_T] = window.labels_T
        (document_id,) = window.document_ids
        bare = whole[document_id][1:-1][window.offset : window.offset + len(ids_L) - 2]
        assert original_L[1:-1].tolist() == bare
        if window.offset > 0:
            assert (positions_T > windowing.overlap).all()
        originals[document_id, window.offset] += 1
    assert max(originals.values()) == 3
    assert len(windows) + counts["repeated_windows"] == 3 * len(originals)
    assert (len(originals) == len(TEXTS)) == (windowing.kind == "truncate")


def test_maskings_that_are_the_same_are_left_out_and_counted(
    tmp_path: Path, bert: MaskedTeacher
) -> None:
    corpus = Corpus(paths=(write_corpus(tmp_path / "short.jsonl", ["to", "[UNK]"]),))
    config = masked_config(tmp_path, MaskedCapture(maskings=50), corpus=corpus)
    windows, counts = windows_of(config, bert)
    # The mask, the word itself, and another.
    assert 2 <= len(windows) < 20
    assert counts["repeated_windows"] == 50 - len(windows)
    assert counts["untargeted_windows"] == 1
    assert counts["documents"] == 2


def test_token_ids_are_framed_whether_or_not_they_were(tmp_path: Path, bert: MaskedTeacher) -> None:
    whole = bert.tokenizer.encode_batch(list(TEXTS))
    path = tmp_path / "ids.jsonl"
    path.write_text(
        "".join(
            json.dumps({"ids": ids if number % 2 else ids[1:-1]}) + "\n"
            for number, ids in enumerate(whole)
        )
    )
    corpus = Corpus(paths=(path,), input_ids_field="ids")
    found, _ = windows_of(masked_config(tmp_path, corpus=corpus), bert)
    expected, _ = windows_of(masked_config(tmp_path), bert)
    assert [one.window_id for one in found] == [one.window_id for one in expected]


@pytest.mark.slow
def test_workers_change_no_mask(tmp_path: Path, bert: MaskedTeacher) -> None:
    config = masked_config(tmp_path)
    store = build(config, bert).store
    other = build(replace(config, output=tmp_path / "workers", workers=2), bert).store
    assert shard_bytes(other.root) == shard_bytes(store.root)


@pytest.mark.slow
def test_order_and_a_crash_change_no_mask(tmp_path: Path, bert: MaskedTeacher) -> None:
    config = masked_config(tmp_path, MaskedCapture(maskings=3, token_weights=True))
    store = build(config, bert).store
    expected = shard_bytes(store.root)

    class CrashError(Exception):
        pass

    def crash(progress: Any) -> None:
        if progress.bytes_per_token is not None:
            raise CrashError

    resumed = replace(config, output=tmp_path / "resumed")
    with pytest.raises(CrashError):
        build(resumed, bert, crash)
    assert shard_bytes(build(resumed, bert).store.root) == expected
    backwards = Corpus(paths=(write_corpus(tmp_path / "backwards.jsonl", TEXTS[::-1]),))
    turned = build(replace(config, corpus=backwards, output=tmp_path / "turned"), bert).store
    assert {one.window_id for one in turned} == {one.window_id for one in store}


@pytest.mark.parametrize(
    ("task", "changes", "expected"),
    [
        (MaskedCapture(mask_probability=0), {}, "--mask-probability: expected above 0 and at most"),
        (MaskedCapture(mask_probability=float("nan")), {}, "--mask-probability: .*; found nan"),
        (MaskedCapture(maskings=0), {}, "--maskings: expected a positive number, .*; found 0"),
        (MaskedCapture(mask_seed=-1), {}, "--mask-seed: expected from 0 to .*; found -1"),
        (None, {"windowing": Windowing(sequence_length=20, kind="pack")}, "--window: expected spl"),
        (
            None,
            {"windowing": Windowing(sequence_length=POSITIONS + 1)},
            rf"at most {POSITIONS}, as many .* Pass --sequence-length {POSITIONS}:",
        ),
        (None, {"windowing": Windowing(sequence_length=3)}, "--sequence-length: expected at least"),
        (
            None,
            {"windowing": Windowing(sequence_length=8, overlap=6)},
            "--sequence-length: expected at least 9",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, bert: MaskedTeacher, task: Any, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        build(masked_config(tmp_path, task, **changes), bert)
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_is_as_long_as_the_positions_and_no_longer(tmp_path: Path, family: str) -> None:
    """RoBERTa has two embeddings of positions that no token takes."""
    teacher = masked_teacher(save_masked_model(tmp_path / "model", family))
    assert teacher.longest_sequence == POSITIONS
    config = masked_config(tmp_path, windowing=Windowing(sequence_length=POSITIONS))
    store = build(config, teacher).store
    assert max(len(window) for window in store) == POSITIONS
    too_long = replace(config, windowing=Windowing(sequence_length=POSITIONS + 1))
    with pytest.raises(InputError, match=f"at most {POSITIONS}, as many tokens as model has"):
        build(replace(too_long, output=tmp_path / "other"), teacher)


def test_an_empty_text_is_refused_or_skipped(tmp_path: Path, bert: MaskedTeacher) -> None:
    path = write_corpus(tmp_path / "some.jsonl", [TEXTS[0], "  ", TEXTS[1]])
    config = masked_config(tmp_path, corpus=Corpus(paths=(path,)))
    with pytest.raises(CorpusError, match=r"document 1: expected a text of one token.*on-invalid"):
        build(config, bert)
    with pytest.raises(Exception, match="expected"):
        Store.open(tmp_path / "store")
    skipping = masked_config(tmp_path, corpus=Corpus(paths=(path,), on_invalid="skip"))
    _, counts = windows_of(skipping, bert)
    assert counts["invalid_documents"] == 1
    assert counts["documents"] == 2


def test_a_tokenizer_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    directory = save_masked_model(tmp_path / "model", "Bert")
    tokenizer = word_pieces()
    tokenizer.mask_token = None
    tokenizer.save_pretrained(directory)
    with pytest.raises(InputError, match="tokenizer: expected one with a mask token"):
        build(masked_config(tmp_path), masked_teacher(directory))
    with pytest.raises(InputError, match="tokenizer: expected one with a mask token"):
        build(masked_config(tmp_path), FakeTeacher())
    assert isinstance(FakeTeacher.tokenizer, ByteTokenizer)
    assert not (tmp_path / "store").exists()
