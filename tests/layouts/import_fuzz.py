"""Imports made from sound ones by chance: other types, other numbers, other encodings, other bytes.

`python -m tests.layouts.import_fuzz 1000 0` tries so many for each layout, by a seed, and prints
what came of them.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.errors import SoftTargetsError
from softtargets.layouts import import_store
from softtargets.layouts.distillkit_compression import CONFIG_NAME
from softtargets.store import Store, verify
from tests.layouts.cases import CASES

Rng = np.random.Generator

ODD: tuple[Any, ...] = (
    None, -1, 0, 1, 255, 299, 300, 2**31 - 1, 2**31, -(2**31), 2**63 - 1, -(2**63), 2**64 - 1,
    0.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"), True, "7", "", "\u202e",
    b"\xff", Decimal("1.5"), [], [None], [[]], {"a": 1}, [[1]], [[[1]]],
)  # fmt: skip
KINDS = (
    pa.null(), pa.bool_(), pa.int8(), pa.uint8(), pa.int32(), pa.uint64(), pa.float16(),
    pa.float64(), pa.string(), pa.large_binary(), pa.decimal128(10, 2), pa.timestamp("us"),
    pa.date32(), pa.struct({"a": pa.int32()}), pa.dictionary(pa.int8(), pa.int32()),
    pa.list_(pa.null()), pa.list_(pa.int32()), pa.large_list(pa.int32()), pa.list_(pa.int32(), 2),
    pa.list_(pa.list_(pa.float32(), 3)), pa.large_list(pa.large_list(pa.float64())),
    pa.list_(pa.list_(pa.string())), pa.list_(pa.list_(pa.list_(pa.int32()))),
    pa.list_(pa.struct({"a": pa.int32()})), pa.list_(pa.dictionary(pa.int8(), pa.string())),
    pa.list_(pa.list_(pa.int64(), 0)), pa.map_(pa.string(), pa.int32()),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound import of one layout."""

    layout: str
    table: pa.Table
    config: bytes

    def read(self, path: Path, output: Path) -> Store:
        """Import a file as this layout."""
        return import_store(self.layout, [path], output, **CASES[self.layout].reading)


def sound_import(layout: str, store: Store, directory: Path) -> Sound:
    """Return what the tool of a layout would write of a store."""
    written = CASES[layout].written(store, directory)
    table = pq.read_table(sorted(written.rglob("part-*.parquet"))[0])
    config = written / CONFIG_NAME
    return Sound(layout, table, config.read_bytes() if config.is_file() else b"")


def mutate(sound: Sound, rng: Rng, directory: Path) -> Path:
    """Write an import with one to three things changed, and return its file."""
    table = sound.table
    changes = rng.integers(1, 4)
    for _ in range(changes):
        change = _CHANGES[rng.integers(len(_CHANGES))]
        try:
            table = change(table, rng)
        except (pa.ArrowException, ValueError, TypeError, OverflowError, KeyError):
            continue  # What pyarrow refuses to make is no input.
    path = _write(table, rng, directory)
    content = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        _damage(content, rng)
    path.write_bytes(content)
    config = bytearray(sound.config)
    if rng.random() < 0.3:
        _damage(config, rng)
    (directory / CONFIG_NAME).write_bytes(config)
    return path


def _change_value(table: pa.Table, rng: Rng) -> pa.Table:
    """Put something odd somewhere into a column."""
    index = int(rng.integers(table.num_columns))
    column = table.column(index)
    values = column.to_pylist()
    if not values:
        return table
    values[rng.integers(len(values))] = _change_within(values[0], rng)
    kind = column.type if rng.random() < 0.7 else None
    return _with_column(table, index, pa.array(values, kind))


def _change_within(value: Any, rng: Rng) -> Any:
    if isinstance(value, list) and value and rng.random() < 0.9:
        changed = list(value)
        at = int(rng.integers(len(changed)))
        what = rng.random()
        if what < 0.15:
            del changed[at]
        elif what < 0.3:
            changed *= int(rng.integers(3))
        else:
            changed[at] = _change_within(changed[at], rng)
        return changed
    return ODD[rng.integers(len(ODD))]


def _change_type(table: pa.Table, rng: Rng) -> pa.Table:
    """Give a column another type, its values cast or made anew."""
    index = int(rng.integers(table.num_columns))
    kind = KINDS[rng.integers(len(KINDS))]
    column = table.column(index)
    try:
        return _with_column(table, index, column.cast(kind))
    except pa.ArrowException:
        return _with_column(table, index, pa.nulls(len(table), kind))


def _change_names(table: pa.Table, rng: Rng) -> pa.Table:
    """Drop a column, give it the name of another, or another name."""
    index = int(rng.integers(table.num_columns))
    if rng.random() < 0.3:
        return table.remove_column(index)
    names = [*table.schema.names, "", "a.b", "\x1b[2J\u202e", "x" * 5000]
    return table.rename_columns(
        [names[rng.integers(len(names))] if at == index else name for at, name in
         enumerate(table.schema.names)]
    )  # fmt: skip


def _change_metadata(table: pa.Table, rng: Rng) -> pa.Table:
    """Put something odd somewhere into the metadata of an export."""
    metadata = json.loads((table.schema.metadata or {}).get(b"softtargets", b"{}"))
    at = metadata
    while isinstance(at, dict) and at:
        name = list(at)[rng.integers(len(at))]
        if not isinstance(at[name], dict) or rng.random() < 0.2:
            if rng.random() < 0.2:
                del at[name]
            else:
                odd = ODD[rng.integers(len(ODD))]
                at[name] = None if isinstance(odd, bytes | Decimal) else odd
            break
        at = at[name]
    return table.replace_schema_metadata({"softtargets": json.dumps(metadata)})


def _change_rows(table: pa.Table, rng: Rng) -> pa.Table:
    """Leave rows out, or repeat them."""
    rows = rng.integers(len(table), size=rng.integers(2 * len(table)))
    return table.take(rows)


_CHANGES = (_change_value, _change_value, _change_type, _change_names, _change_metadata,
            _change_rows)  # fmt: skip


def _with_column(table: pa.Table, index: int, column: Any) -> pa.Table:
    changed = table.set_column(index, table.schema.names[index], column)
    return changed.replace_schema_metadata(table.schema.metadata)


def _write(table: pa.Table, rng: Rng, directory: Path) -> Path:
    """Write a table as somebody may: with any codec, version, encoding, as Parquet or Arrow."""

    def one_of(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    if rng.random() < 0.25:
        path = directory / "rows.arrow"
        options = pa.ipc.IpcWriteOptions(compression=one_of(None, None, None, "zstd", "lz4"))
        with pa.ipc.new_stream(str(path), table.schema, options=options) as writer:
            writer.write_table(table, int(rng.integers(1, 4)))
        return path
    path = directory / "rows.parquet"
    try:
        pq.write_table(
            table,
            path,
            compression=one_of("none", "snappy", "gzip", "zstd", "brotli", "lz4"),
            data_page_version=one_of("1.0", "2.0"),
            use_dictionary=one_of(True, False),
            data_page_size=one_of(1, 100, 1 << 20),
            write_batch_size=one_of(1, 7, 1024),
            row_group_size=one_of(1, 2, 1000),
            version=one_of("1.0", "2.4", "2.6"),
            write_statistics=one_of(True, False),
            store_schema=one_of(True, False),
            write_page_checksum=one_of(True, False),
        )
    except (pa.ArrowException, ValueError, OSError):
        pq.write_table(pa.table({"input_ids": [[1]]}), path)
    return path


def _damage(content: bytearray, rng: Rng) -> None:
    """Flip, cut, blank or repeat some bytes; of a Parquet file often in its footer."""
    if not content:
        return
    first = 0
    if content[-4:] == b"PAR1" and rng.random() < 0.5:
        first = max(0, len(content) - 8 - int.from_bytes(content[-8:-4], "little"))
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(min(first, len(content) - 1), len(content)))
        what = rng.random()
        if what < 0.5:
            content[at] = int(rng.integers(256))
        elif what < 0.7:
            content[at] ^= 1 << int(rng.integers(8))
        elif what < 0.8:
            del content[at:]
        elif what < 0.9:
            content[at : at + 20] = bytes(len(content[at : at + 20]))
        else:
            content[at:at] = content[max(0, at - int(rng.integers(50))) : at]
        if not content:
            return


def fuzz(sound: Sound, rng: Rng, tries: int, directory: Path) -> Counter[str]:
    """Import so many mutations, and return how often each thing came of it.

    Raises:
        Exception: an import ends with anything but an error of the package, or leaves something
            behind.
    """
    found: Counter[str] = Counter()
    for number in range(tries):
        place = directory / f"{number}"
        place.mkdir(parents=True)
        state = rng.bit_generator.state
        path = mutate(sound, rng, place)
        output = place / "store"
        try:
            store = sound.read(path, output)
        except SoftTargetsError as error:
            found[type(error).__name__] += 1
            assert not output.exists(), f"left behind: {list(output.rglob('*'))}: {error}"
            assert len(str(error)) < 3000, str(error)
        except BaseException as error:
            error.add_note(f"{sound.layout}, try {number}, {path}, {state}")
            raise
        else:
            found["imported"] += 1
            assert verify(store).is_sound, f"{sound.layout}, try {number}: {path}"
        shutil.rmtree(place)
    return found


def main() -> None:
    """Try many, and print what came of them."""
    from tests.fakes import build_store

    tries, seed = int(sys.argv[1]), int(sys.argv[2])
    for layout in sys.argv[3:] or CASES:
        directory = Path(tempfile.mkdtemp())
        store = build_store(directory)
        sound = sound_import(layout, store, directory / "written")
        found = fuzz(sound, np.random.default_rng(seed), tries, directory / "tries")
        sys.stdout.write(f"{layout} {tries} {dict(found)}\n")
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
