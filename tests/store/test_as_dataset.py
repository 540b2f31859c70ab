from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from softtargets.errors import CorruptionError
from softtargets.store import Store, export_plain
from tests.golden import GOLDEN


def ids(rows: Any) -> list[str]:
    return [row["window_id"] for row in rows]


def test_columns_are_the_decoded_windows(store: Store) -> None:
    rows = list(store.as_dataset())
    assert len(rows) == len(store)
    for row, window in zip(rows, store, strict=True):
        targets = window.targets
        assert (row["window_id"], row["source"], row["offset"]) == (
            window.window_id,
            window.source,
            window.offset,
        )
        assert row["document_ids"] == list(window.document_ids)
        assert row["input_ids"] == window.input_ids_L.tolist()
        assert row["mask"] == window.mask_T.tolist()
        assert row["ids"] == targets.ids_TK.tolist()
        for temperature, name in ((1.0, "t1"), (2.0, "t2")):
            assert row[f"logprobs_{name}"] == targets.logprobs_TK(temperature).tolist()
            index = targets.temperatures.index(temperature)
            assert row[f"tail_mass_{name}"] == targets.tail_mass_TG[:, index].tolist()
        assert targets.label_logit_T is not None
        assert row["label_logit"] == targets.label_logit_T.tolist()
    arrays = next(iter(store.as_dataset().with_format("numpy")))
    assert np.array_equal(arrays["logprobs_t1"], next(iter(store)).targets.logprobs_TK())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_every_kind_has_the_rows_of_the_plain_export(name: str, tmp_path: Path) -> None:
    store = Store.open(GOLDEN / name / "store")
    table = pq.read_table(export_plain(store.root, tmp_path / "plain"))
    dataset = store.as_dataset()
    # A label that is not known is NaN, which equals nothing.
    assert str(list(dataset)) == str(table.to_pylist())
    assert list(dataset.features) == table.column_names


@pytest.mark.slow
def test_row_groups_are_its_shards(store: Store) -> None:
    dataset = store.as_dataset()
    assert dataset.num_shards == len(store.row_groups) > 3
    parts = [ids(dataset.shard(num_shards=3, index=index)) for index in range(3)]
    assert all(parts)
    assert sorted(one for part in parts for one in part) == sorted(ids(dataset))
    shuffled = dataset.shuffle(seed=1, buffer_size=2)
    assert sorted(ids(shuffled)) == sorted(ids(dataset))
    assert ids(shuffled) != ids(dataset) == [window.window_id for window in store]


@pytest.mark.slow
def test_workers_share_it(store: Store) -> None:
    loader = DataLoader(store.as_dataset(), batch_size=None, num_workers=2)
    assert sorted(ids(loader)) == sorted(store.window_ids())


@pytest.mark.slow
def test_it_is_resumed_at_any_row(store: Store) -> None:
    whole = ids(store.as_dataset())
    dataset = store.as_dataset()
    states = [copy.deepcopy(dataset.state_dict())]
    for _ in dataset:
        states.append(copy.deepcopy(dataset.state_dict()))
    assert len(states) == len(whole) + 1
    for place, state in enumerate(states):
        resumed = store.as_dataset()
        resumed.load_state_dict(json.loads(json.dumps(state)))
        assert ids(resumed) == whole[place:]


def test_a_view_is_one_too(store: Store) -> None:
    held_out = store.split(0.4)[1]
    assert ids(held_out.as_dataset()) == held_out.window_ids()
    assert held_out.as_dataset().num_shards == len(held_out.row_groups)


def test_damage_is_raised(store: Store) -> None:
    whole = store.window_ids()
    entry = store.manifest.shards[2]
    path = store.root / entry.path
    content = bytearray(path.read_bytes())
    content[entry.row_groups[0].offset + 9] ^= 1
    path.write_bytes(content)
    found = []
    with pytest.raises(CorruptionError, match=r"row group 0: expected .* bytes with checksum"):
        for row in store.as_dataset():
            found.append(row["window_id"])
    assert found == whole[: sum(shard.num_windows for shard in store.manifest.shards[:2])]
