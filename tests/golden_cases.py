"""Golden stores of what no random window of a kind has, and what writes any of them.

Each is small, and has what a reader by the specification alone may get wrong: names of columns of
odd temperatures, an unused half-byte, row groups, identities beyond ASCII, identities of stores
that were made from others, and an output head that gives the stored logits.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from softtargets.kinds import FeatureSchema, HeadSchema, TargetSchema
from softtargets.layouts.axolotl import Axolotl
from softtargets.store import Stated, Store, import_lists, merge_stores, split_store
from softtargets.store.output_head import describe_output_head
from softtargets.targets import HeadWeights, SoftTargets, pack
from softtargets.targets.head_weights import HeadTransform, TransformSchema
from softtargets.window import Window
from tests.golden import arrays_of, logprobs_of, make_store, write_store
from tests.layouts.readers import listed, write_rows
from tests.windows import (
    KINDS,
    head_schema,
    make_tokens,
    make_vocabulary,
    make_window,
    of_own_documents,
    select_in_numpy,
    topk_schema,
)

_BEYOND_ASCII = "Stra\u00dfe \U0001f600 \ufb33 \u2028.jsonl"
"""Its emoji sorts before the next letter by UTF-16, and after it by code point."""


def _windows(schema: TargetSchema, seed: int, lengths: Iterable[int]) -> list[Window]:
    rng = np.random.default_rng(seed)
    windows = (
        make_window(rng, schema, num_tokens=length, scale=6, trained=0.7, ruled_out=0.2)[0]
        for length in lengths
    )
    return of_own_documents(windows)


def _units(windows: list[Window], first: int = 2) -> list[list[Window]]:
    """Return windows in two units, of which the first has `first`."""
    return [windows[:first], windows[first:]]


def grid_of_fractions(directory: Path) -> Store:
    """Write temperatures that are no whole numbers, and an odd number of entries."""
    schema = topk_schema(5, temperatures=(0.1, 0.7, 1.5, 12.25, 1e6))
    return write_store(directory, schema, _units(_windows(schema, 1, (2, 9, 5))))


def several_row_groups(directory: Path) -> Store:
    """Write units of several row groups, of a corpus whose name is not ASCII."""
    schema = replace(topk_schema(), metadata=("\u00dcbung", "\ufb33 \U0001f600"))
    windows = [
        replace(window, source=_BEYOND_ASCII, document_ids=("\u65e5\u672c", "\U0001f600"))
        for window in _windows(schema, 2, (4, 6, 3, 9, 2, 5, 7))
    ]
    with patch("softtargets.store.shard.ROW_GROUP_WINDOWS", 2):
        return write_store(directory, schema, _units(windows, 5), corpus=_BEYOND_ASCII)


def one_byte_vocabulary(directory: Path) -> Store:
    """Write ids that one plane holds, up to the highest."""
    schema = topk_schema(7, vocab_size=256, lossless=True)
    return write_store(directory, schema, _units(_windows(schema, 3, (20, 9, 4))))


def exact_output_head(directory: Path) -> Store:
    """Write hidden states and an output head that give the stored logits."""
    rng = np.random.default_rng(4)
    head = HeadWeights(
        weight_VD=rng.standard_normal((300, 6)).astype(np.float32),
        bias_V=rng.standard_normal(300).astype(np.float32),
        dtype="float32",
        scale=0.75,
        divisor=0.125,
        softcap=20.0,
    )
    schema = replace(head_schema(head), head=HeadSchema(max_entries=8, values="float32"))
    windows = [_window_of_head(rng, schema, head, length) for length in (9, 5, 3)]
    return write_store(directory, schema, _units(windows), head)


def _window_of_head(
    rng: np.random.Generator, schema: TargetSchema, head: HeadWeights, length: int
) -> Window:
    tokens = make_tokens(rng, schema, length, trained=0.7)
    hidden_TD = rng.standard_normal((length - 1, 6)).astype(np.float32)
    assert head.bias_V is not None and head.softcap is not None
    logits_TV = (hidden_TD @ head.weight_VD.T + head.bias_V) * head.scale / head.divisor
    logits_TV = (head.softcap * np.tanh(logits_TV / head.softcap)).astype(np.float32)
    labels_T = tokens.input_ids_L[1:]
    selected: SoftTargets = select_in_numpy(logits_TV, labels_T, 8, schema.temperatures)
    targets = replace(selected, features={"last_hidden": hidden_TD})
    return Window.of(tokens, pack(targets, schema))


def head_of_bert(directory: Path) -> Store:
    """Write masked tokens, hidden states of all tokens, and a head with layers of its own."""
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((9, 6)).astype(np.float32)
    transform = HeadTransform(
        dense_DD=vectors[:6],
        dense_bias_D=vectors[6],
        norm_scale_D=vectors[7],
        norm_shift_D=vectors[8],
        schema=TransformSchema(activation="gelu", epsilon=1e-12),
    )
    head = HeadWeights(
        weight_VD=rng.standard_normal((300, 6)).astype(np.float32),
        bias_V=rng.standard_normal(300).astype(np.float32),
        dtype="float32",
        transform=transform,
    )
    hidden = FeatureSchema(name="last_hidden", width=6, rows="tokens", dtype="float32")
    schema = replace(
        KINDS["masked-tokens"],
        head=HeadSchema(max_entries=8, values="float32"),
        features=(hidden,),
        output_head=describe_output_head(head),
    )
    windows = [_masked_window(rng, schema, head, length) for length in (9, 5, 12)]
    return write_store(directory, schema, _units(of_own_documents(windows)), head)


def _masked_window(
    rng: np.random.Generator, schema: TargetSchema, head: HeadWeights, length: int
) -> Window:
    tokens = make_tokens(rng, schema, length, trained=0.7)
    hidden_LD = rng.standard_normal((length, 6)).astype(np.float32)
    assert head.transform is not None and head.bias_V is not None
    own, at_TD = head.transform, hidden_LD[tokens.target_positions_T].astype(np.float64)
    dense_TD = at_TD @ own.dense_DD.T + own.dense_bias_D
    active_TD = dense_TD * (1 + np.vectorize(math.erf)(dense_TD / math.sqrt(2))) / 2
    centred_TD = active_TD - active_TD.mean(axis=1, keepdims=True)
    deviation_T1 = np.sqrt((centred_TD**2).mean(axis=1, keepdims=True) + own.schema.epsilon)
    transformed_TD = centred_TD / deviation_T1 * own.norm_scale_D + own.norm_shift_D
    logits_TV = (transformed_TD @ head.weight_VD.T + head.bias_V).astype(np.float32)
    selected = select_in_numpy(logits_TV, tokens.labels_T, 8, schema.temperatures)
    targets = replace(selected, features={"last_hidden": hidden_LD})
    return Window.of(tokens, pack(targets, schema))


def merged(directory: Path) -> Store:
    """Write what two stores make, of which the second names itself beyond ASCII."""
    schema = topk_schema()
    with tempfile.TemporaryDirectory() as name:
        parts = [
            write_store(
                Path(name) / f"{seed}",
                schema,
                [_windows(schema, seed, lengths)],
                corpus=corpus,
                changes={"unit_tokens": 8},
            )
            for seed, corpus, lengths in ((5, "one", (5, 3, 6)), (6, _BEYOND_ASCII, (4, 7)))
        ]
        return merge_stores([part.root for part in parts], directory)


def derived(directory: Path) -> Store:
    """Write the larger part of a store that was split."""
    schema = topk_schema()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        windows = _windows(schema, 7, (5, 3, 7, 4, 6, 2))
        whole = write_store(
            root / "whole",
            schema,
            [windows],
            vocabulary=make_vocabulary(),
            changes={"unit_tokens": 8},
        )
        train, _ = split_store(whole.root, directory, root / "held-out", fraction=0.3, seed=1)
        return train


def imported(directory: Path) -> Store:
    """Write lists that another tool had stored, of a teacher that nobody stated."""
    with tempfile.TemporaryDirectory() as name:
        path = write_rows(Path(name) / "rows.parquet", listed(5))
        stated = Stated(values="full", temperature=1.5, vocab_size=300, license="cc-by-4.0")
        with patch("softtargets.layouts.listed_import.UNIT_TOKENS", 8):
            return import_lists([path], directory, Axolotl(), stated)


def shard_table(directory: Path) -> Store:
    """Write shards of one and of two row groups, which a table of several row groups lists."""
    schema = topk_schema(3)
    windows = _windows(schema, 8, (3, 5, 4, 7, 2, 6, 8))
    with (
        patch("softtargets.store.shard_table_file.LISTED_SHARDS", 0),
        patch("softtargets.store.shard_table_file._ROWS", 2),
        patch("softtargets.store.shard.ROW_GROUP_WINDOWS", 2),
    ):
        return write_store(directory, schema, [windows[:1], windows[1:4], windows[4:]])


CASES = {
    "grid-of-fractions": grid_of_fractions,
    "several-row-groups": several_row_groups,
    "one-byte-vocabulary": one_byte_vocabulary,
    "exact-output-head": exact_output_head,
    "head-of-bert": head_of_bert,
    "merged": merged,
    "derived": derived,
    "imported": imported,
    "shard-table": shard_table,
}
"""What writes each."""


def make_golden(directory: Path, name: str) -> Store:
    """Write a store of a kind or case."""
    return CASES[name](directory) if name in CASES else make_store(directory, name)


def expected_arrays(store: Store) -> dict[str, np.ndarray]:
    """Return what a golden store has beside it: all arrays, and what its entries come to."""
    has_entries = store.targets.head is not None and store.targets.temperatures
    return arrays_of(store) | ({"logprobs": logprobs_of(store)} if has_entries else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    there = {path.name.rpartition("-")[0] for path in arguments.directory.iterdir()}
    for name in arguments.names or sorted({*KINDS, *CASES} - there):
        with tempfile.TemporaryDirectory() as temporary:
            made = Path(temporary) / "store"
            store = make_golden(made, name)
            arrays, version = expected_arrays(store), store.manifest.format_version
            directory = arguments.directory / f"{name}-{version}"
            if not directory.exists():
                shutil.copytree(made, directory / "store")
                np.savez_compressed(directory / "expected.npz", **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
