"""What imports may ask for: sizes are found out before anything is unpacked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softtargets.errors import CorpusError, InputError, LimitError
from softtargets.layouts.axolotl import Axolotl
from softtargets.layouts.distillkit_compression import Compression
from softtargets.layouts.lists import nested_lists
from softtargets.store import Store, export_plain, import_lists, import_plain, verify
from softtargets.store.parquet_pages import ParquetPages
from softtargets.store.parquet_rows import find_rows
from tests.attacks.unpacking import forge_number, one_row
from tests.layouts.readers import FULL, LOGITS, LOGPROBS, listed, write_rows


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "brotli", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_sizes_of_rows_are_bounds_and_close(
    compression: str, version: str, dictionary: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    """The longest row is found, wherever pages begin; numbers are counted exactly."""
    for page_bytes in (100, 3000, 1 << 20):
        counts = [rng.integers(0, 90, rng.integers(1, 60)) for _ in range(40)]
        counts[17] = np.full(4000, 300)
        values = [np.zeros(one.sum(), np.float32) for one in counts]
        path = write_rows(tmp_path / "a.parquet", {"x": nested_lists(values, counts)})
        pq.write_table(
            pq.read_table(path), path, compression=compression, data_page_version=version,
            use_dictionary=dictionary, data_page_size=page_bytes, write_batch_size=50,
        )  # fmt: skip
        size = ParquetPages(path).sizes(["x"])["x"]
        num_values = sum(int(np.maximum(one, 1).sum()) for one in counts)
        assert size.num_bytes == 4 * num_values
        longest = 4 * 4000 * 300
        assert longest <= size.row_bytes <= longest + (1 << 22)


@pytest.mark.parametrize("width", [1, 2])
def test_rows_are_found_in_runs_of_every_kind(width: int, rng: np.random.Generator) -> None:
    levels = rng.integers(0, 1 << width, 37) * (rng.random(37) < 0.8)
    bits = (levels[:, None] >> np.arange(width)) & 1
    packed = np.packbits(np.append(bits.ravel(), np.zeros(3 * width, np.int64)), bitorder="little")
    starts = np.flatnonzero(levels == 0)
    one_run = bytes([5 << 1 | 1]) + packed.tobytes()
    by_value = b"".join(bytes([2, level]) for level in levels)
    groups = b"".join(
        bytes([3]) + packed[at * width : (at + 1) * width].tobytes() for at in range(5)
    )
    for encoded in (one_run, by_value, groups):
        found = find_rows(encoded, width, 37, first_alone=False)
        assert found is not None
        assert (found.first, found.last) == (starts[0], starts[-1])
        assert found.longest == np.diff(starts).max()
    assert find_rows(bytes([37 << 1, 1]), width, 37, first_alone=False) is None


def refused(path: Path, tmp_path: Path, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        import_lists([path], tmp_path / "store", Axolotl(), FULL)
    assert not (tmp_path / "store").exists()


def test_a_file_that_unpacks_to_far_more_than_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack does so with the limit that is there unless it is set."""
    monkeypatch.setenv("SOFTTARGETS_MAX_IMPORT_BYTES", "1000000")
    num_values = 1_500_000
    path = one_row(tmp_path / "a.parquet", num_values)
    assert path.stat().st_size < 2000
    refused(path, tmp_path, LimitError, f"SOFTTARGETS_MAX_IMPORT_BYTES={8 * num_values + 8}")


@pytest.mark.slow
def test_a_footer_that_understates_is_refused(tmp_path: Path) -> None:
    path = one_row(tmp_path / "a.parquet", 10_000_000)
    forge_number(path, 10_000_000, 4)
    refused(path, tmp_path, CorpusError, "pages of more values than the footer says")


def test_a_limit_is_raised_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTTARGETS_MAX_ROW_TOKENS", "3")
    path = write_rows(tmp_path / "rows.parquet", listed())
    refused(path, tmp_path, LimitError, "set SOFTTARGETS_MAX_ROW_TOKENS=4 and run it again")
    monkeypatch.setenv("SOFTTARGETS_MAX_ROW_TOKENS", "4")
    assert verify(import_lists([path], tmp_path / "store", Axolotl(), FULL)).is_sound


def test_one_target_with_many_entries_does_not_multiply_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTTARGETS_MAX_ROW_BYTES", "100000")
    ids = [[[7, 8, 9]] * 4, [[7], list(range(200)), *[[7]] * 298]]
    logprobs = [[[float(np.log(0.5 / len(own)))] * len(own) for own in row] for row in ids]
    rows = {"input_ids": [[1, 2, 3, 4], [2] * 300], "target_token_ids": ids, "logprobs": logprobs}
    path = write_rows(tmp_path / "rows.parquet", rows)
    refused(path, tmp_path, LimitError, "299 targets with room for 200 entries")


def test_columns_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    table = pa.table(listed())
    path = tmp_path / "a.parquet"
    pq.write_table(table.append_column("logprobs", table.column("logprobs")), path)
    refused(path, tmp_path, CorpusError, "expected one column logprobs")


def test_columns_that_are_not_read_may_be_anything(tmp_path: Path) -> None:
    extra: dict[str, Any] = {"text": ["\u202e" * 10**6] * 2, "none": pa.nulls(2)}
    path = write_rows(tmp_path / "a.parquet", listed(**extra))
    assert len(import_lists([path], tmp_path / "store", Axolotl(), FULL)) == 2


def test_packed_buffers_of_arrow_are_refused(tmp_path: Path) -> None:
    table = pa.table(listed(logprobs=[[LOGPROBS] * 4] * 2))
    for name, codec in (("plain", None), ("zstd", "zstd"), ("lz4", "lz4")):
        path = tmp_path / f"{name}.arrow"
        options = pa.ipc.IpcWriteOptions(compression=codec)
        with pa.ipc.new_stream(str(path), table.schema, options=options) as writer:
            writer.write_table(table)
    refused(tmp_path / "zstd.arrow", tmp_path, CorpusError, "compressed buffers")
    refused(tmp_path / "lz4.arrow", tmp_path, CorpusError, "compressed buffers")
    assert len(import_lists([tmp_path / "plain.arrow"], tmp_path / "store", Axolotl(), FULL)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("count", [-1, 1 << 53, 1.5, None])
def test_counts_that_no_manifest_has_are_refused(count: Any, store: Store, tmp_path: Path) -> None:
    path = sorted(export_plain(store.root, tmp_path / "plain").glob("part-*"))[0]
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"softtargets"])
    about["corpus"]["documents"] = count
    pq.write_table(table.replace_schema_metadata({"softtargets": json.dumps(about)}), path)
    with pytest.raises(CorpusError, match="expected metadata softtargets"):
        import_plain([path], tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_rows_without_a_target_leave_nothing_behind(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", listed(input_ids=[[1], [2]], num_lists=1))
    with pytest.raises(InputError, match="at least one window"):
        import_lists([path], tmp_path / "store", Axolotl(), LOGITS)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [1, 1]\nb: [*a, *a]", r"an alias, \*a"),
        ("[" * 50_000, "more than 32 deep"),
        ("- " * 40_000, "more than 32 deep"),
        ("d: !!int x", "a tag"),
        ("d: 1" + "0" * 5000, "a number of more than 100 digits"),
        ("d: 300\nk: x" + "y" * 5000, r"d: 300\\nk: xyyy.* \.\.\. "),
    ],
)
def test_yaml_that_multiplies_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "compression_config.yaml"
    path.write_text(text)
    with pytest.raises(CorpusError, match=message) as caught:
        Compression.read(path)
    assert len(str(caught.value)) < 1000
    path.write_text("# \n" * 50_000)
    with pytest.raises(LimitError, match="SOFTTARGETS_MAX_YAML_BYTES=150000"):
        Compression.read(path)
