"""What the layouts mean: rows that other tools have stored, as windows."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch

from softtargets.errors import CorpusError, TemperatureError
from softtargets.layouts.axolotl import Axolotl
from softtargets.layouts.token_logits import TokenLogits
from softtargets.store import Store, import_lists, verify
from tests.commands import run
from tests.layouts.readers import (
    FULL,
    LOGITS,
    LOGPROBS,
    RENORMALISED,
    listed,
    token_logits,
    write_rows,
)
from tests.plain_reader import read_store


def test_a_list_is_about_the_token_it_is_about(tmp_path: Path) -> None:
    """Prepared rows: list j is about token j + 1, in older ones about token j. Rows as vLLM gives
    them are about the last tokens."""
    ids = [[[10], [11], [12], [13]]]
    values = [[[0.0]] * 4]
    tokens = [[1, 2, 3, 4]]
    prepared = {
        "input_ids": tokens,
        "target_token_ids": ids,
        "target_logprobs": values,
        "target_mask": [[[1], [1], [1], [0]]],
    }
    legacy = prepared | {"target_mask": [[[0], [1], [1], [1]]]}
    raw = {"input_ids": tokens, "target_token_ids": ids, "logprobs": values}
    short = {"input_ids": tokens, "target_token_ids": [ids[0][:3]], "logprobs": [values[0][:3]]}
    for number, (columns, layout, expected) in enumerate(
        (
            (prepared, Axolotl(), [10, 11, 12]),
            (legacy, Axolotl(alignment="legacy"), [11, 12, 13]),
            (raw, Axolotl(), [11, 12, 13]),
            (short, Axolotl(), [10, 11, 12]),
        )
    ):
        path = write_rows(tmp_path / f"{number}.parquet", columns)
        [window] = import_lists([path], tmp_path / f"{number}", layout, RENORMALISED)
        assert window.targets.ids_TK[:, 0].tolist() == expected
        assert window.mask_T.all()


def test_the_wrong_alignment_is_noticed_by_labels_and_mask(tmp_path: Path) -> None:
    columns = listed(1) | {
        "target_logprobs": [[LOGPROBS] * 4],
        "labels": [[-100, -100, 3, 4]],
        "target_mask": [[[0] * 3, [1] * 3, [1] * 3, [0] * 3]],
    }
    path = write_rows(tmp_path / "rows.parquet", columns)
    [window] = import_lists([path], tmp_path / "store", Axolotl(), FULL)
    assert window.mask_T.tolist() == [False, True, True]
    with pytest.raises(CorpusError, match="row 0: expected a target_mask that is 0 exactly where"):
        import_lists([path], tmp_path / "other", Axolotl(alignment="legacy"), FULL)
    assert not (tmp_path / "other").exists()


def test_published_logits_come_without_a_tail(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data-shard-000.parquet", token_logits())
    store = import_lists([path], tmp_path / "store", TokenLogits(), LOGITS)
    assert verify(store.root).is_sound
    assert store.targets.temperatures == ()
    assert read_store(store.root)["ids"].tolist() == [[7, 8, 9]] * 3 + [[9, 8, 7]] * 3
    first = next(iter(store))
    assert first.targets.ids_TK.tolist() == [[7, 8, 9]] * 3
    assert first.targets.logits_TK.tolist() == [[11.75, 11.0, 10.5]] * 3
    assert (first.source, first.document_ids) == ("data-shard-000.parquet", ("0",))
    with pytest.raises(TemperatureError, match="tail='renormalize' takes the kept entries"):
        first.targets.logprobs_TK()
    identity = store.manifest.identity
    assert identity["imported"] == {"layout": "token-logits", "values": "logits"}
    assert set(identity["teacher"]) == {"source_sha256"}
    assert store.manifest.teacher == "unknown"
    shown = run("info", store.root).output
    assert "unknown (nobody stated it)" in shown
    assert "none: what the vocabulary sums to is not stored" in shown
    refused = run("verify", store.root, "--rescore", "1", "--teacher", "nobody")
    assert "a store whose teacher is known" in refused.stderr


def test_order_is_only_a_convention(tmp_path: Path) -> None:
    """vLLM puts the true token first: entries are sorted, whatever their order."""
    columns = listed(
        1,
        logprobs=[[[LOGPROBS[2], LOGPROBS[0], LOGPROBS[1]]] * 4],
        target_token_ids=[[[9, 7, 8]] * 4],
    )
    path = write_rows(tmp_path / "rows.parquet", columns)
    [window] = import_lists([path], tmp_path / "store", Axolotl(), FULL)
    assert window.targets.ids_TK.tolist() == [[7, 8, 9]] * 3


def test_padding_segments_gaps_and_repeats(tmp_path: Path) -> None:
    """Padding goes, documents stay apart, targets without entries are none, rows come once."""
    lists = [[11.0, 10.0]] * 6
    ids = [[1, 2]] * 6
    columns = {
        "input_ids": [[1, 2, 3, 4, 5, 0], [0, 1, 2, 3, 4, 5], [9, 8, 7, 0, 0, 0],
                      [1, 0, 0, 0, 0, 0]],
        "attention_mask": [[1, 1, 2, 2, 2, 0], [0, 1, 1, 2, 2, 2], [1, 1, 1, 0, 0, 0],
                           [1, 0, 0, 0, 0, 0]],
        "token_ids": [ids, ids, [ids[0], [], *ids[2:]], ids],
        "top_values": [lists, lists, [lists[0], None, *lists[2:]], lists],
    }  # fmt: skip
    columns["token_ids"][2][1] = None  # type: ignore[index]
    path = write_rows(tmp_path / "rows.parquet", columns)
    store = import_lists([path], tmp_path / "store", TokenLogits(), LOGITS)
    assert verify(store.root).is_sound
    first, other = store
    assert first.input_ids_L.tolist() == [1, 2, 3, 4, 5]
    assert first.segment_lengths_S.tolist() == [2, 3]
    assert first.document_ids == ("0.0", "0.1")
    assert first.mask_T.tolist() == [True, False, True, True]
    assert other.positions_T is not None
    assert other.positions_T.tolist() == [0]
    corpus = store.manifest.corpus
    assert (corpus["repeated_windows"], corpus["untargeted_windows"]) == (1, 1)


def test_padding_on_the_left_moves_no_target(tmp_path: Path) -> None:
    columns = {
        "input_ids": [[0, 0, 5, 6, 7]],
        "attention_mask": [[0, 0, 1, 1, 1]],
        "token_ids": [[[1], [2], [3], [4], [9]]],
        "top_values": [[[1.0]] * 5],
    }
    path = write_rows(tmp_path / "rows.parquet", columns)
    [window] = import_lists([path], tmp_path / "store", TokenLogits(), LOGITS)
    assert window.input_ids_L.tolist() == [5, 6, 7]
    assert window.targets.ids_TK[:, 0].tolist() == [3, 4]


def test_distillkits_own_captures_are_read(tmp_path: Path) -> None:
    """A list less than tokens, bfloat16, differences; a polynomial's ranks are left out."""
    logprobs = torch.tensor(LOGPROBS)
    deltas = torch.cat([logprobs[:1], logprobs.diff()]).bfloat16()
    values = [*deltas.view(torch.uint8).tolist(), *[77] * 12]
    bits = "".join(f"{token:09b}" for token in (7, 8, 299, 5))
    packed = [int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8)]
    columns = {
        "input_ids": pa.array([[1, 2, 3, 4]], pa.list_(pa.uint64())),
        "compressed_logprobs": pa.array([[values] * 3], pa.list_(pa.list_(pa.uint8()))),
        "bytepacked_indices": pa.array([[packed] * 3], pa.list_(pa.list_(pa.uint8()))),
    }
    path = write_rows(tmp_path / "data_0.parquet", columns)
    config = tmp_path / "compression_config.yaml"
    config.write_text(
        "d: 300\nk: 4\nexact_k: 3\nexact_dtype: bfloat16\npolynomial_terms: [0, 1, sqrt]\n"
        "term_dtype: float32\nresidual_bins: []\ndelta_encoding: true\n"
    )
    made = run(
        "import", path, "--from", "distillkit", "--output", tmp_path / "store", "--values-are",
        "full", "--temperature", "1", "--vocab-size", "300", "--values", "float32",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    [window] = Store.open(tmp_path / "store")
    assert window.targets.ids_TK.tolist() == [[7, 8, 299]] * 3
    np.testing.assert_allclose(window.targets.logprobs_TK(), [LOGPROBS] * 3, rtol=2**-7)


@pytest.mark.slow
def test_arrow_files_of_datasets_are_read(tmp_path: Path) -> None:
    """As `axolotl preprocess` and `save_to_disk` leave them."""
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(listed(100)).save_to_disk(tmp_path / "saved")
    store = import_lists([tmp_path / "saved"], tmp_path / "store", Axolotl(), FULL)
    assert len(store) == 100
    path = write_rows(tmp_path / "rows.parquet", listed(100))
    same = import_lists([path], tmp_path / "same", Axolotl(), FULL)
    assert [one.window_id for one in same] == [one.window_id for one in store]
