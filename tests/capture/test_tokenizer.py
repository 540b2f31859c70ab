"""What is kept of a tokenizer: its tokens, and the text that each adds."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from softtargets.capture.teacher_tokenizer import TransformersTokenizer, decode_batch
from softtargets.errors import TeacherError
from softtargets.tokenizer import Vocabulary, no_collections
from tests.windows import make_vocabulary


def byte_level() -> tuple[Tokenizer, list[str]]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*alphabet, "\u0120t", "\u00e2\u0124"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("\u0120", "t"), ("\u00e2", "\u0124")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, ["<|end|>"]


def byte_fallback() -> tuple[Tokenizer, list[str]]:
    pieces = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256))]
    pieces += [("\u2581", -2.0), ("\u2581to", -1.0), ("day", -1.0), ("\u00e9", -3.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, 0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer, ["  two spaces", "</s>"]


def word_piece() -> tuple[Tokenizer, list[str]]:
    words = ["[UNK]", "to", "##day", "is", "."]
    vocab = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, []


def load(directory: Path, tokenizer: Tokenizer, added: list[str]) -> TransformersTokenizer:
    tokenizer.add_tokens(added)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)
    return TransformersTokenizer(directory, trust_remote_code=False)


TEXT = "today is to to\u00e9 \u20ac 5 \U0001f600 <|end|>."


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_texts_of_tokens_make_the_text_of_any_ids(tmp_path: Path, make: type) -> None:
    tokenizer, added = make()
    loaded = load(tmp_path, tokenizer, added)
    vocabulary = loaded.vocabulary()
    assert vocabulary.ids_N.tolist() == list(range(loaded.vocab_size))
    assert None not in vocabulary.utf8
    [ids] = loaded.encode_batch([TEXT])
    assert vocabulary.text(ids).removeprefix(" ") == TEXT
    rng = np.random.default_rng(0)
    is_text = np.array([one is not None and one.isascii() for one in vocabulary.utf8])
    for _ in range(50):
        random_ids = rng.choice(vocabulary.ids_N[is_text], 8)
        expected = tokenizer.decode(random_ids.tolist(), skip_special_tokens=False)
        found = vocabulary.text(random_ids)
        assert expected in (found, found.removeprefix(" "))


def test_a_part_of_a_character_is_its_bytes(tmp_path: Path) -> None:
    tokenizer, added = byte_level()
    vocabulary = load(tmp_path, tokenizer, added).vocabulary()
    utf8 = dict(zip(vocabulary.tokens, vocabulary.utf8, strict=True))
    assert utf8["\u00e2\u0124"] == b"\xe2\x82"
    assert utf8["\u0120t"] == b" t"
    assert sorted(one for one in vocabulary.utf8 if one is not None and len(one) == 1) == [
        bytes([byte]) for byte in range(256)
    ]


def test_pieces_of_words_stand_without_their_marks(tmp_path: Path) -> None:
    vocabulary = load(tmp_path, *word_piece()).vocabulary()
    assert vocabulary.text([1, 2, 3, 4]) == " today is."
    assert vocabulary.token(2) == "##day"


@pytest.mark.parametrize("make", [byte_level, byte_fallback, word_piece])
@pytest.mark.parametrize("times", [1, 2])
def test_many_texts_at_once_are_those_that_transformers_decodes(make: type, times: int) -> None:
    tokenizer, added = make()
    tokenizer.add_tokens(added)
    ids = [[token_id] * times for token_id in range(tokenizer.get_vocab_size())]
    for kind in (PreTrainedTokenizerFast, Shouting):
        loaded = kind(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]
        expected = loaded.batch_decode(ids, clean_up_tokenization_spaces=False)
        assert decode_batch(loaded, ids) == expected


class Shouting(PreTrainedTokenizerFast):
    """A tokenizer that decodes in its own way."""

    def _decode(self, *args: Any, **options: Any) -> str:
        return str(super()._decode(*args, **options)).upper()


def test_ids_without_a_token_are_told_apart() -> None:
    vocabulary = make_vocabulary()
    assert len(vocabulary) == 299
    assert vocabulary.token(7) is None
    assert vocabulary.token(300) is None
    assert vocabulary.token(-1) is None
    assert vocabulary.token(8) == "\u0120token-8"
    # Bytes 4 and 5 are one character; what 3 adds is unknown; 6 adds nothing.
    assert vocabulary.text([4, 5]) == "\u00e9"
    assert vocabulary.text([8, 3, 6, 7, 4]) == " token-8\u0120token-3\ufffd\ufffd"
    assert "token-9" not in repr(vocabulary)
    empty = Vocabulary(ids_N=np.empty(0, np.int32), tokens=(), utf8=())
    assert empty.token(0) is None


@pytest.mark.parametrize("was_enabled", [True, False])
def test_collections_are_put_off_and_then_as_they_were(was_enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if was_enabled else gc.disable)()
    try:
        with pytest.raises(OSError, match="unreadable"), no_collections():
            assert not gc.isenabled()
            raise OSError("unreadable")
        assert gc.isenabled() == was_enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_the_collector_runs_again_after_a_tokenizer_that_cannot_be_loaded(tmp_path: Path) -> None:
    assert gc.isenabled()
    with pytest.raises(TeacherError, match="a tokenizer that transformers can load"):
        TransformersTokenizer(tmp_path, trust_remote_code=False)
    assert gc.isenabled()
