from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from softtargets.capture.segments import segments_of
from softtargets.errors import InputError
from softtargets.window import hash_window
from tests.windows import KINDS, make_tokens, make_window


def window_id(ids: list[int], segments: list[int], mask: list[bool]) -> str:
    return hash_window(
        np.array(ids, np.int32), np.array(segments, np.int32), np.array(mask, np.bool_)
    )


def test_the_id_is_stable_over_releases() -> None:
    # Stores are shared for years: neither the recipe nor this value may ever change.
    content = b"softtargets.window.v1\0"
    content += (3).to_bytes(8, "little") + b"\1\0\0\0\2\0\0\0\3\0\0\0"
    content += (1).to_bytes(8, "little") + b"\3\0\0\0"
    content += (2).to_bytes(8, "little") + b"\1\0"
    expected = hashlib.sha256(content).hexdigest()[:32]
    assert expected == "844d33a859c99a481c0800a315b75439"
    assert window_id([1, 2, 3], [3], [True, False]) == expected


def test_everything_in_the_content_changes_the_id() -> None:
    base = window_id([1, 2, 3, 4], [4], [True, True, True])
    others = [
        window_id([1, 2, 3, 5], [4], [True, True, True]),
        window_id([2, 1, 3, 4], [4], [True, True, True]),
        window_id([1, 2, 3, 4], [2, 2], [True, True, True]),
        window_id([1, 2, 3, 4], [4], [True, False, True]),
        window_id([1, 2, 3], [3], [True, True]),
    ]
    assert len({base, *others}) == 6


@pytest.mark.parametrize("kind", ["classes-of-tokens", "classes-of-windows"])
def test_labels_that_there_are_none_of_are_no_input_ids(
    rng: np.random.Generator, kind: str
) -> None:
    schema = replace(KINDS[kind], label_ids=False)
    window, _ = make_window(rng, schema)
    with pytest.raises(InputError, match=r"labels: expected label_ids, .* found none, and"):
        _ = window.labels_T


def test_a_target_that_no_token_follows_has_no_label(rng: np.random.Generator) -> None:
    """A window without targets does not know what they will be about."""
    window = make_tokens(rng, KINDS["topk"], 6, 1.0)
    assert window.labels_T.tolist() == window.input_ids_L[1:].tolist()
    one_each = replace(window, mask_T=np.ones(6, np.bool_))
    message = "a target at token 5 of 6, which no token follows"
    with pytest.raises(InputError, match=message):
        _ = one_each.labels_T
    with pytest.raises(InputError, match=message):
        segments_of(one_each)
    labels_T = np.arange(6, dtype=np.int32)
    assert replace(one_each, label_ids_T=labels_T).labels_T is labels_T
    listed = replace(window, positions_T=np.array([0, 4], np.int32), mask_T=np.ones(2, np.bool_))
    assert listed.labels_T.tolist() == window.input_ids_L[[1, 5]].tolist()
