from __future__ import annotations

import hashlib

import numpy as np

from softtargets.window import hash_window


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
