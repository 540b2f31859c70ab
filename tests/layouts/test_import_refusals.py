"""What an import refuses, naming file and row: nothing is written then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softtargets.errors import CorpusError, CorruptionError, FormatError, InputError
from softtargets.layouts.axolotl import Axolotl
from softtargets.layouts.distillkit import DistillKit
from softtargets.layouts.distillkit_compression import Compression
from softtargets.store import (
    Stated,
    Store,
    export_distillkit,
    export_plain,
    import_lists,
    import_plain,
    verify,
)
from tests.fakes import build_store
from tests.layouts.cases import CASES
from tests.layouts.readers import FULL, LOGPROBS, RENORMALISED, listed, write_rows

BAD_ROWS = {
    "ids out of the vocabulary": (
        listed(target_token_ids=[[[7, 8, 300]] * 4] * 2), FULL, "row 0, target 0: .* 0 to 299",
    ),
    "a negative id": (listed(target_token_ids=[[[7, 8, -1]] * 4] * 2), FULL, "found -1"),
    "a token out of the vocabulary": (listed(input_ids=[[1, 2, 3, 4], [1, 2, 3, 400]]), FULL,
                                      "row 1, target 3: expected input_ids"),
    "an id twice": (listed(target_token_ids=[[[7, 8, 7]] * 4] * 2), FULL, "an id once"),
    "fewer ids than values": (listed(target_token_ids=[[[7, 8]] * 4] * 2), FULL,
                              "as many ids as values"),
    "more lists than tokens": (listed(num_lists=5), FULL, "at most 4 lists"),
    "not a number": (listed(logprobs=[[[*LOGPROBS[:2], float("nan")]] * 4] * 2), FULL, "as logits"),
    "infinity": (listed(logprobs=[[[*LOGPROBS[:2], float("inf")]] * 4] * 2), FULL, "as logits"),
    "a logit that no step reaches": (listed(logprobs=[[[0.0, -1.0, -9e7]] * 4] * 2), FULL,
                                     "as logits from"),
    "ids that are no integers": (listed(target_token_ids=[[[7.5, 8.0, 9.0]] * 4] * 2), FULL,
                                 "lists of lists of integers"),
    "a sum over 1": (listed(logprobs=[[[-0.1, -0.2, -0.3]] * 4] * 2), FULL, "at most 1"),
    "logits stated to be log-probabilities": (listed(logprobs=[[[900.0, 1.0, 0.0]] * 4] * 2), FULL,
                                              "at most 1"),
    "full stated to be renormalised": (listed(), RENORMALISED, "sum to 1 .*found 0.875"),
    "nothing in the head": (listed(logprobs=[[[-50.0, -60.0, -70.0]] * 4] * 2), FULL, "at most 1"),
    "a null among ids": (listed(target_token_ids=[[[7, 8, None]] * 4] * 2), FULL, "null"),
    "a null row": (listed(input_ids=[[1, 2, 3, 4], None]), FULL, "a list in every row"),
    "texts for ids": (listed(target_token_ids=[[["7", "8", "9"]] * 4] * 2), FULL, "lists of lists"),
    "flat lists": (listed(logprobs=[LOGPROBS] * 2), FULL, "lists of lists of numbers"),
    "no such column": ({"input_ids": [[1, 2]]}, FULL, "a column target_token_ids"),
    "labels of another length": (listed(labels=[[1, 2]] * 2), FULL, "4 labels"),
    "padding in the middle": (listed(attention_mask=[[1, 0, 1, 1]] * 2), FULL, "attention_mask"),
    "no token": (listed(attention_mask=[[0, 0, 0, 0]] * 2), FULL, "attention_mask"),
}  # fmt: skip


def test_a_signalling_nan_is_refused_without_a_warning(tmp_path: Path) -> None:
    """Whether a cast of one warns depends on the processor's instructions, and on their order."""
    values_E = np.tile(np.array(LOGPROBS, np.float32), 8)
    values_E.view(np.uint32)[-1] = 0x7FA00000
    lists = pa.ListArray.from_arrays(np.array(range(0, 25, 3), np.int32), pa.array(values_E))
    columns = listed(logprobs=pa.ListArray.from_arrays(np.array([0, 4, 8], np.int32), lists))
    path = write_rows(tmp_path / "rows.parquet", columns)
    with pytest.raises(CorpusError, match="as logits"):
        import_lists([path], tmp_path / "store", Axolotl(), FULL)
    compression = Compression(d=300, k=3, exact_k=3)
    values_NK = compression.unpack_values(values_E.view(np.uint8).reshape(8, 12))
    assert np.isnan(values_NK).sum() == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BAD_ROWS))
def test_a_bad_row_is_named_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    columns, stated, message = BAD_ROWS[name]
    path = write_rows(tmp_path / "rows.parquet", columns)
    with pytest.raises(CorpusError, match=message) as caught:
        import_lists([path], tmp_path / "store", Axolotl(), stated)
    assert caught.value.where.startswith(str(path))
    assert not (tmp_path / "store").exists()


def test_what_is_stated_must_fit(tmp_path: Path) -> None:
    renormalised = np.log([0.5, 0.3, 0.2]).tolist()
    path = write_rows(tmp_path / "rows.parquet", listed(logprobs=[[renormalised] * 4] * 2))
    with pytest.raises(InputError, match="The values look renormalised"):
        import_lists([path], tmp_path / "store", Axolotl(), FULL)
    for values, temperature in (("logits", 1.0), ("full", None), ("full", 0.0), ("full", -1.0)):
        with pytest.raises(InputError, match="that of the softmax"):
            Stated(values=values, temperature=temperature, vocab_size=300)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="vocab_size"):
        Stated(values="logits", vocab_size=0)
    empty = write_rows(tmp_path / "empty.parquet", listed(logprobs=[[None] * 4] * 2,
                       target_token_ids=[[None] * 4] * 2))  # fmt: skip
    table = pq.read_table(empty)
    kinds = {"logprobs": pa.float32(), "target_token_ids": pa.int32()}
    for column, kind in kinds.items():
        index = table.schema.get_field_index(column)
        own = table.column(column).cast(pa.list_(pa.list_(kind)))
        table = table.set_column(index, column, own)
    pq.write_table(table, empty)
    with pytest.raises(InputError, match="at least one window"):
        import_lists([empty], tmp_path / "none", Axolotl(), RENORMALISED)
    with pytest.raises(CorpusError, match="no such file"):
        import_lists([tmp_path / "absent.parquet"], tmp_path / "none", Axolotl(), FULL)
    (tmp_path / "bare").mkdir()
    with pytest.raises(CorpusError, match="or a directory with some"):
        import_lists([tmp_path / "bare"], tmp_path / "none", Axolotl(), FULL)


@pytest.mark.parametrize(
    "text",
    ["", "- 1", "d: 300", "d: 300\nk: 4\nexact_k: 0", "d: 300\nk: 4\nexact_k: 5", "{", "\xff",
     "d: 300\nk: 4\nexact_k: 4\nexact_dtype: int4", "d: '300'\nk: 4\nexact_k: 4",
     "!!python/object/apply:os.system ['true']", "[" * 1000],
)  # fmt: skip
def test_a_bad_configuration_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "compression_config.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CorpusError, match="compression configuration"):
        Compression.read(path)


def test_a_name_of_a_teacher_holds_no_credentials() -> None:
    for name in ("https://me:hunter22@host/a", "https://host/a?token=hunter22"):
        with pytest.raises(InputError, match="expected a name that everybody") as caught:
            Stated(values="logits", vocab_size=9, teacher=name)
        assert "hunter22" not in str(caught.value)
    assert Stated(values="logits", vocab_size=9, teacher="hf://org/name@main").teacher


def test_bytes_of_another_configuration_are_refused(store: Store, tmp_path: Path) -> None:
    written = export_distillkit(store.root, tmp_path / "written")
    for compression in (
        Compression(d=300, k=9, exact_k=9),
        Compression(d=300, k=8, exact_k=8, exact_dtype="float64"),
        Compression(d=60_000, k=8, exact_k=8),
    ):
        layout = DistillKit(compression=compression)
        with pytest.raises(CorpusError, match="bytes at every position"):
            import_lists([written], tmp_path / "store", layout, FULL)


DAMAGES = 45


@pytest.mark.slow
@pytest.mark.parametrize("layout", CASES)
def test_damaged_files_are_refused_or_change_nothing(
    layout: str, store: Store, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Bits flipped, files cut, zeros: an error that names the file, and no traceback of pyarrow."""
    case = CASES[layout]
    written = case.written(store, tmp_path / "written")
    path, *others = sorted(written.rglob("part-*.parquet"))
    for other in others:
        other.unlink()
    sound = path.read_bytes()
    refused = 0
    for number in range(DAMAGES):
        content = bytearray(sound)
        kind = number % 3
        if kind == 0:
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            content = content[: rng.integers(len(content))]
        else:
            at = int(rng.integers(len(content)))
            content[at : at + 100] = bytes(len(content[at : at + 100]))
        path.write_bytes(content)
        try:
            case.read([written], tmp_path / f"{number}")
        except (CorpusError, FormatError, InputError) as error:
            refused += 1
            assert str(path) in str(error) or isinstance(error, InputError)
        else:
            assert verify(tmp_path / f"{number}").is_sound
    assert refused > DAMAGES / 2


@pytest.mark.slow
def test_plain_files_of_others_are_refused(store: Store, tmp_path: Path) -> None:
    foreign = write_rows(tmp_path / "rows.parquet", listed())
    with pytest.raises(CorpusError, match="metadata softtargets"):
        import_plain([foreign], tmp_path / "back")
    written = export_plain(store.root, tmp_path / "plain")
    with pytest.raises(CorpusError, match="a window that no file had before"):
        import_plain([written, written], tmp_path / "back")
    (tmp_path / "b").mkdir()
    other = export_plain(build_store(tmp_path / "b", values="float32").root, tmp_path / "other")
    with pytest.raises(CorpusError, match="a file of the store"):
        import_plain([written, other], tmp_path / "back")
    vocabulary = written / "_vocabulary.parquet"
    vocabulary.write_bytes(vocabulary.read_bytes()[:-10])
    with pytest.raises(CorruptionError, match="_vocabulary"):
        import_plain([written], tmp_path / "back")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("window_id", lambda values: ["0" * 32, *values[1:]]),
        ("ids", lambda values: [[[1, 1, *own[2:]] for own in row] for row in values]),
        ("logprobs_t1", lambda values: [[own[::-1] for own in row] for row in values]),
        ("tail_mass_t1", lambda values: [[1.5] * len(row) for row in values]),
        ("top_logit", lambda values: [row[:-1] for row in values]),
        ("label_rank", lambda values: [[-1] * len(row) for row in values]),
        ("mask", lambda values: [row[:-1] for row in values]),
        ("input_ids", lambda values: [[token + 1 for token in row] for row in values]),
    ],
)
def test_a_plain_row_that_was_edited_is_refused(
    column: str, change: Any, store: Store, tmp_path: Path
) -> None:
    path = sorted(export_plain(store.root, tmp_path / "plain").glob("part-*"))[0]
    table = pq.read_table(path)
    index, own = table.schema.get_field_index(column), table.column(column)
    changed = pa.array(change(own.to_pylist()), own.type)
    pq.write_table(table.set_column(index, column, changed), path)
    with pytest.raises(CorpusError, match="row 0"):
        import_plain([path], tmp_path / "back")
    assert not (tmp_path / "back").exists()
