"""The list of shards in a Parquet file that someone else may have written.

Whoever wrote it wrote its hash too, so a hash that holds says nothing of what stands there. All is
checked as arrays: what the JSON Schema says of a shard that a manifest lists, and then what holds
of all shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from softtargets.errors import CorruptionError, FormatError, error_text
from softtargets.limits import Limit
from softtargets.store.json_object import parse_object
from softtargets.store.pages import column_pages
from softtargets.store.parquet_footer import check_chunks, footer_of
from softtargets.store.row_group_table import Numbers
from softtargets.store.shard_checks import MOST_COUNTED, check_shards
from softtargets.store.shard_columns import GROUP_NUMBERS, SHA256_BYTES, ShardColumns
from softtargets.store.shard_table import ShardTable
from softtargets.store.shard_table_file import GROUP_TYPES, GROUPS, SHARD_TYPES
from softtargets.texts import shortened

SHARD_TABLE_BYTES = Limit(
    variable="SOFTTARGETS_MAX_SHARD_TABLE_BYTES",
    default=1 << 29,
    unit="bytes of a table of shards in memory",
)
_OBJECT_RATIO = 64
"""How many times its size a JSON text takes as objects, at most: `[],` is a list."""
_COLUMNS = [*SHARD_TYPES, GROUPS]
_PATH = r"\Ashards/[A-Za-z0-9_-]+\.parquet\z"
_PATH_BYTES = 255
_OF_SHARD = {
    "unit": (0, MOST_COUNTED),
    "num_bytes": (1, MOST_COUNTED),
    "footer_bytes": (1, 1 << 28),
}
"""What the JSON Schema says of the numbers of a shard, and of a row group."""
_OF_GROUP = {
    "num_windows": (1, MOST_COUNTED),
    "num_positions": (1, MOST_COUNTED),
    "offset": (0, MOST_COUNTED),
    "num_bytes": (1, 1 << 34),
}


def decode_shard_table(content: bytes, num_shards: int, where: str) -> ShardTable:
    """Return the shards of a file's content.

    Raises:
        LimitError: they take more memory than they are trusted with.
        CorruptionError: it is no such file.
        FormatError: its shards are none that a manifest may list.
    """
    try:
        columns = _columns(_tables(content, num_shards, where))
        if len(columns) != num_shards:
            raise ValueError(f"row groups with {len(columns):,} rows")
    except (pa.ArrowException, MemoryError, OSError, ValueError, KeyError) as error:
        raise CorruptionError(
            where,
            expected=f"a Parquet file with {num_shards:,} shards, as FORMAT.md describes it",
            found=shortened(error_text(error), 200),
        ) from error
    _check_values(columns, where)
    shards = ShardTable(columns)
    check_shards(shards, where, ", row ")
    return shards


def _tables(content: bytes, num_shards: int, where: str) -> Iterator[pa.Table]:
    """Yield the columns of each row group, of the right types and without nulls."""
    view = memoryview(content)
    check_chunks(footer_of(view, where))
    with pq.ParquetFile(
        pa.BufferReader(content), page_checksum_verification=True, read_dictionary=["run"]
    ) as file:
        _check_types(file.schema_arrow)
        if file.metadata.num_rows != num_shards:
            raise ValueError(f"{file.metadata.num_rows:,} rows")
        _check_memory(view, file.metadata, where)
        for group in range(file.metadata.num_row_groups):
            table = file.read_row_group(group, columns=_COLUMNS, use_threads=False)
            for name in _COLUMNS:
                if any(_has_nulls(chunk) for chunk in table.column(name).chunks):
                    raise ValueError(f"nulls in column {name}")
            yield table


def _check_types(schema: pa.Schema) -> None:
    """Check the types of the columns; those of other names are another release's."""
    found = {name: schema.field(name).type for name in SHARD_TYPES}
    wanted = SHARD_TYPES | {"run": pa.dictionary(pa.int32(), pa.string())}
    groups = schema.field(GROUPS).type
    if not (pa.types.is_list(groups) and pa.types.is_struct(groups.value_type)):
        raise ValueError(f"column {GROUPS} of {groups}")
    found |= {f"{GROUPS}.{name}": groups.value_type.field(name).type for name in GROUP_TYPES}
    wanted |= {f"{GROUPS}.{name}": own for name, own in GROUP_TYPES.items()}
    for name, own in wanted.items():
        if found[name] != own:
            raise ValueError(f"column {name} of {found[name]}")


def _check_memory(content: memoryview, footer: pq.FileMetaData, where: str) -> None:
    """Check that no more memory is taken than the file is trusted with.

    What a row group takes while it is read is more than what is kept of it.
    """
    kept, taken = 0, [0] * footer.num_row_groups
    for group in range(footer.num_row_groups):
        places = {group: range(len(content))}
        for name, pages in column_pages(content, footer, places, _COLUMNS, where):
            own = pages.unpacked_bytes(is_shared=name == "run")
            taken[group] += own
            width = SHA256_BYTES if name == "sha256" else 8
            kept += own if name in ("path", "run") else width * pages.num_values
    SHARD_TABLE_BYTES.check(where, kept + max(taken, default=0))


def _has_nulls(values: pa.Array) -> bool:
    if pa.types.is_dictionary(values.type):
        return bool(values.null_count or values.dictionary.null_count)
    if pa.types.is_list(values.type):
        return bool(values.null_count) or _has_nulls(values.flatten())
    if pa.types.is_struct(values.type):
        fields = (values.field(name) for name in GROUP_TYPES)
        return bool(values.null_count) or any(map(_has_nulls, fields))
    return bool(values.null_count)


def _columns(tables: Iterator[pa.Table]) -> ShardColumns:
    """Return the columns of row groups that follow each other."""
    parts: dict[str, list[Any]] = {}
    for table in tables:
        for name, part in _parts(table):
            parts.setdefault(name, []).append(part)
    run = pa.chunked_array(parts.pop("run")).unify_dictionaries()

    def joined(name: str) -> npt.NDArray[Any]:
        # Popped, so that no more than one column is in memory twice.
        return np.concatenate(parts.pop(name))

    return ShardColumns(
        **{name: joined(name) for name in _OF_SHARD},
        path=_one_chunk(pa.chunked_array(parts.pop("path"))),
        sha256=joined("sha256"),
        footer_xxh3=joined("footer_xxh3"),
        run=pa.concat_arrays(run.chunks),
        first_groups=np.cumsum(np.append(0, joined("sizes")), dtype=np.int64),
        groups={name: joined(f"{GROUPS}.{name}") for name in GROUP_NUMBERS},
        group_xxh3=joined(f"{GROUPS}.xxh3"),
    )


def _parts(table: pa.Table) -> Iterator[tuple[str, Any]]:
    """Yield the columns of a row group, and those of its shards' row groups, by name."""
    for name, kind in SHARD_TYPES.items():
        own = _one_chunk(table.column(name))
        yield name, own if pa.types.is_string(kind) else _flat(own)
    lists = _one_chunk(table.column(GROUPS))
    yield "sizes", np.diff(lists.offsets.to_numpy())
    groups = lists.flatten()
    for name in GROUP_TYPES:
        yield f"{GROUPS}.{name}", _flat(groups.field(name))


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _flat(values: pa.Array) -> npt.NDArray[Any]:
    """Return numbers, or the bytes [n, width] of values of one length."""
    if not pa.types.is_fixed_size_binary(values.type):
        return values.to_numpy()  # type: ignore[no-any-return]
    width = values.type.byte_width
    own = np.frombuffer(values.buffers()[1], np.uint8)[values.offset * width :]
    return own[: len(values) * width].reshape(-1, width)


def _check_values(columns: ShardColumns, where: str) -> None:
    """Check what the JSON Schema says of the entries that a manifest lists.

    Raises:
        FormatError: naming the first that does not fit.
    """
    for name, (least, most) in _OF_SHARD.items():
        _check_range(getattr(columns, name), least, most, f"{where}, column {name}")
    sizes = np.diff(columns.first_groups)
    _check_range(sizes, 1, MOST_COUNTED, f"{where}, column {GROUPS}", "row groups")
    for name, (least, most) in _OF_GROUP.items():
        own = f"{where}, column {GROUPS}.{name}"
        _check_range(columns.groups[name], least, most, own)
    # A text may be as long as the limit allows, so it is not shown before its length is known.
    lengths = pc.binary_length(columns.path).to_numpy()
    _check_range(lengths, 1, _PATH_BYTES, f"{where}, column path", "characters")
    is_path = pc.match_substring_regex(columns.path, _PATH).to_numpy(zero_copy_only=False)
    if not is_path.all():
        row = int(is_path.argmin())
        # It need not be UTF-8.
        found = columns.path[row].cast(pa.binary()).as_py()
        raise FormatError(
            f"{where}, column path, row {row}",
            expected="shards/NAME.parquet, of letters, digits, - and _",
            found=shortened(repr(found)),
        )
    runs = columns.run.dictionary
    SHARD_TABLE_BYTES.check(f"{where}, column run", _OBJECT_RATIO * runs.nbytes)
    for text in runs:
        parse_object(text.as_py(), f"{where}, column run")


def _check_range(found: Numbers, least: int, most: int, where: str, what: str = "") -> None:
    is_wrong = (found < least) | (found > most)
    if is_wrong.any():
        row = int(is_wrong.argmax())
        raise FormatError(
            f"{where}, value {row}",
            expected=f"{least:,} to {most:,} {what}".rstrip(),
            found=f"{found[row]:,}",
        )
