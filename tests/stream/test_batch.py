from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from softtargets import IGNORE_INDEX, SoftTargetDataset, Store, collate
from softtargets.errors import InputError, TemperatureError
from softtargets.targets import TargetSchema
from softtargets.window import Window
from tests.golden import GOLDEN
from tests.windows import KINDS, KINDS_OF_1_3, make_window, topk_schema


def test_masks_and_labels_stand_where_they_belong(rng: np.random.Generator) -> None:
    long, short = (make_window(rng, num_tokens=length)[0] for length in (5, 3))
    long.mask_T[1] = False
    batch = collate([long, short])
    assert batch.token_mask().tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    mask = batch.soft_targets().mask
    assert mask.tolist() == [[True, False, True, True, False], [True, True, False, False, False]]
    labels = batch["labels"]
    # The target at t is of token t + 1: that token is the label.
    assert torch.equal(labels[:, 1:] != IGNORE_INDEX, mask[:, :-1])
    assert (labels[:, 0] == IGNORE_INDEX).all()
    at = labels != IGNORE_INDEX
    assert torch.equal(labels[at], batch["input_ids"][at])
    assert batch["window_id"] == [long.window_id, short.window_id]


def test_windows_of_different_schemas_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="found 2 windows of 2 schemas"):
        collate([make_window(rng, topk_schema(8))[0], make_window(rng, topk_schema(9))[0]])
    with pytest.raises(InputError, match="found 0 windows"):
        collate([])


SAMPLED = {"sampled", "sampled-with-logits", "hybrid"}
PLAIN = {"topk", "topk-lossless", "topk-of-262144", "assistant-tokens", "with-metadata"} | SAMPLED
PLAIN.add("masked-tokens")
PLAIN |= set(KINDS_OF_1_3)


def test_labels_of_masked_tokens_stand_where_these_do(rng: np.random.Generator) -> None:
    schema = KINDS["masked-tokens"]
    windows = [
        make_window(rng, schema, num_tokens=length, trained=0.7)[0] for length in (20, 31, 9)
    ]
    batch = collate(windows)
    expected = torch.full(batch["input_ids"].shape, -100)
    for row, window in enumerate(windows):
        places_T, mask_T = torch.from_numpy(window.target_positions_T), window.mask_T
        expected[row, places_T[mask_T]] = torch.from_numpy(window.labels_T[mask_T]).long()
    assert torch.equal(batch["labels"], expected)
    assert torch.equal(batch.target_labels(), expected)
    assert torch.equal(batch["target_mask"], expected != -100)
    targets = batch.soft_targets(2.0)
    for row, window in enumerate(windows):
        at_T = torch.from_numpy(window.target_positions_T)
        own = window.targets
        torch.testing.assert_close(
            targets.logprobs[row, at_T], torch.from_numpy(own.logprobs_TK(2.0))
        )


def test_documents_that_share_a_window_are_told_apart(rng: np.random.Generator) -> None:
    window, _ = make_window(rng, num_tokens=6)
    first = int(window.segment_lengths_S[0])
    batch = collate([window, make_window(rng, num_tokens=8)[0]])
    assert batch["segment_ids"][0].tolist() == [0] * first + [1] * (6 - first) + [0, 0]
    assert batch["position_ids"][0].tolist() == [*range(first), *range(6 - first), 0, 0]


def check_classes(windows: list[Window], schema: TargetSchema) -> None:
    """Check class logits, labels and token types of a batch, element by element."""
    batch = collate(windows)
    is_of_windows = schema.convention.is_of_windows
    assert (batch["input_ids"][0, len(windows[0]) :] == schema.pad_token_id).all()
    assert ("token_type_ids" in batch) == schema.token_types
    for row, window in enumerate(windows):
        logits_TC = window.packed.cells["class_logits"].reshape(-1, schema.num_classes)
        if schema.token_types:
            types_L = batch["token_type_ids"][row, : len(window)].tolist()
            assert window.token_types_L is not None
            assert types_L == window.token_types_L.tolist()
        for target, position in enumerate(window.target_positions_T.tolist()):
            at = row if is_of_windows else (row, position)
            assert batch["class_logits"][at].tolist() == logits_TC[target].tolist()
            assert batch["target_mask"][at] == window.mask_T[target]
            expected: Any = -100
            if schema.label_values:
                assert window.label_values_F is not None
                values_TC = window.label_values_F.reshape(-1, schema.num_classes)
                expected = values_TC[target] if window.mask_T[target] else values_TC[0] * np.nan
            elif schema.label_ids and window.mask_T[target] and window.labels_T[target] >= 0:
                expected = window.labels_T[target]
            np.testing.assert_array_equal(batch["labels"][at].numpy(), expected)
    if not is_of_windows:
        assert batch["target_mask"].sum() == sum(window.mask_T.sum() for window in windows)


def check_states(windows: list[Window], schema: TargetSchema) -> None:
    """Check that a batch has the vectors of every feature where they belong."""
    batch = collate(windows)
    for one in schema.features:
        found, is_there = batch.states(one.name), batch.has_states(one.name)
        expected = np.concatenate([window.targets.features[one.name] for window in windows])
        if one.rows == "targets":
            expected = expected[np.concatenate([window.mask_T for window in windows])]
        np.testing.assert_array_equal(found[is_there].float().numpy(), expected)
        assert (found[~is_there] == 0).all()
    with pytest.raises(InputError, match="expected one of the store's features"):
        batch.states("layer_99")


def check_sources(windows: list[Window], schema: TargetSchema) -> None:
    """Check what a batch has of the encoder's input: all of it, padded, with a mask."""
    batch = collate(windows)
    for row, window in enumerate(windows):
        assert window.encoder_ids_M is not None
        num_read = len(window.encoder_ids_M)
        assert batch["encoder_input_ids"][row, :num_read].tolist() == window.encoder_ids_M.tolist()
        assert (batch["encoder_input_ids"][row, num_read:] == schema.pad_token_id).all()
        is_token_M = batch["encoder_attention_mask"][row]
        assert is_token_M[:num_read].all()
        assert not is_token_M[num_read:].any()
    assert batch["encoder_input_ids"].shape[1] == max(2 * len(window) for window in windows)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - PLAIN))
def test_a_batch_holds_all_that_a_store_has_or_is_refused(
    rng: np.random.Generator, kind: str
) -> None:
    windows = [make_window(rng, KINDS[kind], num_tokens=length)[0] for length in (9, 12)]
    if kind == "topk-without-tail":
        with pytest.raises(TemperatureError, match="there are none"):
            collate(windows).soft_targets()
    elif KINDS[kind].num_classes:
        check_classes(windows, KINDS[kind])
        check_states(windows, KINDS[kind])
    elif KINDS[kind].features and KINDS[kind].head and kind != "features":
        check_states(windows, KINDS[kind])
    elif KINDS[kind].encoder_input:
        check_sources(windows, KINDS[kind])
    else:
        with pytest.raises(InputError, match=r"with labels: a head, samples, or both, .*; found "):
            collate(windows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "assistant-tokens", "classes-of-windows", "hybrid", "sampled-with-logits", "topk-lossless",
        "topk-of-262144", "topk-without-tail", "translation", "with-metadata",
    ],
)  # fmt: skip
def test_rows_of_a_store_make_the_batch_that_its_windows_make(kind: str) -> None:
    store = Store.open(GOLDEN / f"{kind}-1.1" / "store")
    windows = list(store)
    dataset = SoftTargetDataset(store, batch_size=len(windows))
    [batch] = dataset
    expected = collate(windows)
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert batch[name].dtype == value.dtype
            assert torch.equal(batch[name], value), name
        else:
            assert batch[name] == value
    assert set(batch) == {*expected, "epoch", "next_place"}


def test_batches_stay_when_other_shards_are_read(store: Store) -> None:
    # The memory that files are read into is used again.
    first, second = (
        next(ref for ref in store.row_groups if ref.shard == shard) for shard in (0, 1)
    )
    rows = store.read_rows(first)
    kept = [{name: row.cell(name).copy() for name in row.columns} for row in rows]
    store.read_rows(second)
    for row, copy in zip(rows, kept, strict=True):
        for name, cell in copy.items():
            assert np.array_equal(row.cell(name), cell)
