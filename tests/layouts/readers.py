"""Readers of the layouts of other tools, written from what those tools do with the columns.

They share no code with softtargets. What a tool's own collator or decoder does is said beside each,
with where it does so; docs/formats.md has the sources. And rows as other tools write them, with
what is stated of them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from softtargets.store import Stated

Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """What a trainer takes for the teacher's distribution after some tokens."""

    position: int
    logprobs: dict[int, float]
    """In the order of the columns."""
    is_trained: bool


def rows_of(directory: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(directory / "data").to_pylist()
    return rows


def axolotl_targets(row: Row) -> Iterator[Target]:
    """Row j is about token j + 1; slots with mask 0 are dropped (README, "Target alignment")."""
    length = len(row["input_ids"])
    names = ("attention_mask", "labels", "target_logprobs", "target_token_ids", "target_mask")
    assert [len(row[name]) for name in names] == [length] * len(names)
    assert not any(row["target_mask"][-1]), "the last row is about no token"
    for j in range(length - 1):
        slots = zip(
            row["target_token_ids"][j], row["target_logprobs"][j], row["target_mask"][j],
            strict=True,
        )  # fmt: skip
        kept = [(token, value, mask) for token, value, mask in slots if value > -1e8]
        is_trained = row["labels"][j + 1] != -100
        assert all(mask == is_trained for _, _, mask in kept)
        assert is_trained <= bool(kept)
        assert row["labels"][j + 1] in (-100, row["input_ids"][j + 1])
        yield Target(j, {token: value for token, value, _ in kept}, is_trained)


def distillkit_targets(row: Row, config: Row) -> Iterator[Target]:
    """Bytes to numbers as `decompress_monotonic_logprobs` and `unpack_from_bytes` do it.

    The logits at token t are compared with list t, where `labels[t] >= 0` (trainer.py).
    """
    assert config["exact_k"] == config["k"]
    assert not config["polynomial_terms"]
    assert not config["residual_bins"]
    assert not config["delta_encoding"]
    code = {"float32": "f", "float16": "e"}[config["exact_dtype"]]
    num_bits = math.ceil(math.log2(config["d"]))
    for t in range(len(row["input_ids"])):
        values = struct.unpack(f"<{config['k']}{code}", bytes(row["compressed_logprobs"][t]))
        stream = "".join(f"{byte:08b}" for byte in row["bytepacked_indices"][t])
        ids = [int(stream[at * num_bits : (at + 1) * num_bits], 2) for at in range(config["k"])]
        assert all(token < config["d"] for token in ids), "the trainer gathers logits by it"
        kept = {token: value for token, value in zip(ids, values, strict=True) if value > -8192}
        assert row["labels"][t] in (-100, row["input_ids"][t])
        yield Target(t, kept, row["labels"][t] >= 0)


def compression_config(directory: Path) -> Row:
    config: Row = yaml.safe_load((directory / "compression_config.yaml").read_text())
    return config


LOGPROBS = np.log([0.5, 0.25, 0.125]).tolist()
FULL = Stated(values="full", temperature=1.0, vocab_size=300)
RENORMALISED = Stated(values="renormalised", temperature=1.0, vocab_size=300)
LOGITS = Stated(values="logits", vocab_size=300)


def write_rows(path: Path, columns: Mapping[str, Any]) -> Path:
    pq.write_table(pa.table(dict(columns)), path)
    return path


def listed(num_rows: int = 2, num_lists: int = 4, **changes: Any) -> dict[str, Any]:
    """Return rows of four tokens with three entries at each, in the form of axolotl's vLLM rows."""
    columns: dict[str, Any] = {
        "input_ids": [[number, 2, 3, 4] for number in range(num_rows)],
        "logprobs": [[LOGPROBS] * num_lists] * num_rows,
        "target_token_ids": [[[7, 8, 9]] * num_lists] * num_rows,
    }
    return columns | changes


def token_logits(**changes: Any) -> dict[str, Any]:
    """Return rows like those of Arcee's public set."""
    columns: dict[str, Any] = {
        "normalized_logits": [[[0.5, 0.3, 0.2]] * 4] * 2,
        "input_ids": [[1, 2, 3, 4], [5, 6, 7, 8]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 1, 1]],
        "token_ids": [[[7, 8, 9]] * 4, [[9, 8, 7]] * 4],
        "top_values": [[[11.75, 11.0, 10.5]] * 4, [[3.0, 2.0, -1.0]] * 4],
    }
    return columns | changes
