"""Seeded damage to a store on disk, as disks, networks, editors and enemies do it."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets.errors import InputError
from softtargets.hashes import checksum, hash_bytes
from softtargets.store.codec import decode_tokens
from softtargets.store.shard import describe_shard
from softtargets.window import content_hash
from tests.forgery import forge_manifest, forge_shard, read_manifest, write_manifest

Damage = Callable[[Path, random.Random], str]


def flip_bytes(store: Path, rng: random.Random) -> str:
    path = _any_file(store, rng)
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 8, 64))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return path.name


def cut_tail(store: Path, rng: random.Random) -> str:
    path = _any_file(store, rng)
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])
    return path.name


def fill_with_zeros(store: Path, rng: random.Random) -> str:
    path = _any_file(store, rng)
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    stop = min(len(content), start + rng.randint(1, 4096))
    content[start:stop] = bytes(stop - start)
    path.write_bytes(content)
    return path.name


def append(store: Path, rng: random.Random) -> str:
    path = _any_file(store, rng)
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 100)))
    return path.name


def swap_shards(store: Path, rng: random.Random) -> str:
    one, other = rng.sample(sorted((store / "shards").iterdir()), 2)
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    return f"{one.name} and {other.name}"


def remove_or_link(store: Path, rng: random.Random) -> str:
    path = _any_file(store, rng)
    if rng.random() < 0.5:
        path.unlink()
    else:
        target = store.parent / "elsewhere.parquet"
        shutil.copy(path, target)
        path.unlink()
        path.symlink_to(target)
    return path.name


def flip_manifest_bytes(store: Path, rng: random.Random) -> str:
    path = store / "manifest.json"
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return path.name


def cut_manifest(store: Path, rng: random.Random) -> str:
    path = store / "manifest.json"
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])
    return path.name


def edit_manifest_field(store: Path, rng: random.Random) -> str:
    """Replace, remove or repeat one value anywhere in the manifest."""
    path = store / "manifest.json"
    data = json.loads(path.read_text())
    name = _edit(data, rng)
    path.write_text(json.dumps(data))
    return name


def forge_bytes(store: Path, rng: random.Random) -> str:
    """Change bytes of a shard, its footer or a side file, and make every checksum right again."""
    manifest = read_manifest(store)
    forged = _any_file(store, rng)
    content = bytearray(forged.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    places = rng.choice((range(footer), range(footer, len(content))))
    for _ in range(rng.choice((1, 1, 2, 8))):
        content[rng.choice(places)] = rng.randrange(256)
    forged.write_bytes(content)
    if forged.name == "shards.parquet":
        entry = {"num_bytes": len(content), "sha256": hash_bytes(bytes(content))}
        forge_manifest(store, lambda manifest: manifest["shard_table"].update(entry))
        return forged.name
    if forged.parent == store:
        entry = manifest[{"head": "output_head"}.get(forged.stem, forged.stem)]
    else:
        [entry] = [one for one in manifest["shards"] if store / one["path"] == forged]
        entry["footer_xxh3"] = checksum(bytes(content[footer:]))
        for group in entry["row_groups"]:
            start = group["offset"]
            group["xxh3"] = checksum(bytes(content[start : start + group["num_bytes"]]))
    entry["sha256"] = hash_bytes(bytes(content))
    write_manifest(store, manifest)
    return forged.name


def forge_values(store: Path, rng: random.Random) -> str:
    """Put another number into a column, or take an element out, and write the shard anew."""
    manifest = read_manifest(store)
    with pq.ParquetFile(store / manifest["shards"][0]["path"]) as file:
        table = file.read_row_group(0)
    names = [
        field.name
        for field in table.schema
        if pa.types.is_list(field.type)
        and not pa.types.is_string(field.type.value_type)
        and len(table[field.name].combine_chunks().flatten())
    ]
    name = rng.choice(names)
    column = table[name].combine_chunks()
    row = rng.choice([row for row in range(len(column)) if len(column[row])])
    if rng.random() < 0.2:
        forge_column(store, name, drop(row, rng.choice((0, -1))))
        return f"{name}, dropped"
    place = rng.randrange(len(column.flatten()))
    kind = column.type.value_type
    if pa.types.is_floating(kind):
        value = rng.choice([math.nan, math.inf, -math.inf, 0.0, -1.0, 1.0, 1e30, rng.random()])
    else:
        bits = 8 if pa.types.is_fixed_size_binary(kind) else kind.bit_width
        most = 2 ** (bits - pa.types.is_signed_integer(kind)) - 1
        value = rng.choice([0, 1, 2, 3, most, rng.randint(0, most)])
    forge_column(store, name, put(value, place))
    return f"{name}[{place}] = {value}"


def forge_targets(store: Path, rng: random.Random) -> str:
    """Say something else of what the targets are, in manifest and shards alike."""
    path = store / "manifest.json"
    manifest = json.loads(path.read_text())
    name = _edit(manifest["identity"]["targets"], rng)
    path.write_text(json.dumps(manifest))
    try:
        forge_manifest(store, lambda _: None)
    except InputError:  # A number that no identity can have, so the old fingerprint stays.
        return name
    for unit in range(len(read_manifest(store)["shards"])):
        forge_shard(store, lambda table: table, unit)
    return name


Change = Callable[[list[int], np.ndarray], tuple[list[int], np.ndarray]]
"""Of a column of lists: where its cells begin and the last ends, and their values."""


def put(value: float, place: int = 0) -> Change:
    """Return what puts a number, or every byte of an element, into a column."""

    def change(offsets: list[int], values: np.ndarray) -> tuple[list[int], np.ndarray]:
        values[place] = value
        return offsets, values

    return change


def drop(row: int = 0, place: int = -1) -> Change:
    """Return what takes an element out of a row's cell."""

    def change(offsets: list[int], values: np.ndarray) -> tuple[list[int], np.ndarray]:
        at = offsets[row] if place == 0 else offsets[row + 1] - 1
        assert offsets[row] < offsets[row + 1]
        return [one - (one > at) for one in offsets], np.delete(values, at, axis=0)

    return change


def forge_column(store: Path, name: str, change: Change) -> None:
    """Change a column of the first row group; make all checksums and window ids right again."""
    manifest = read_manifest(store)
    entry = manifest["shards"][0]
    shard = store / entry["path"]
    with pq.ParquetFile(shard) as file:
        tables = [file.read_row_group(group) for group in range(file.num_row_groups)]
    tables[0] = _with_ids(_changed(tables[0], name, change))
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, tables[0].schema, write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table)
    content = sink.getvalue().to_pybytes()
    shard.write_bytes(content)
    sizes = [(group["num_windows"], group["num_positions"]) for group in entry["row_groups"]]
    described = asdict(describe_shard(content, entry["unit"], sizes, entry["run"]))
    manifest["shards"][0] = described | {"row_groups": list(described["row_groups"])}
    write_manifest(store, manifest)


def _changed(table: pa.Table, name: str, change: Change) -> pa.Table:
    column = table.column(name).combine_chunks()
    field = table.schema.field(name)
    if not pa.types.is_list(field.type):
        _, values = change([], column.to_numpy().copy())
        changed = pa.array(values, field.type)
    else:
        element = field.type.value_type
        values = column.values.to_numpy(zero_copy_only=False)
        if pa.types.is_fixed_size_binary(element):
            flat = np.frombuffer(column.values.buffers()[1], np.uint8)
            values = flat.reshape(-1, element.byte_width)
        offsets, values = change(column.offsets.to_pylist(), values.copy())
        is_blob = pa.types.is_fixed_size_binary(element)
        elements = [row.tobytes() for row in values] if is_blob else values
        changed = pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), pa.array(elements, element), type=field.type
        )
    return table.set_column(table.schema.get_field_index(name), field, changed)


def _with_ids(table: pa.Table) -> pa.Table:
    """Return a table whose windows have the ids that their content gives them."""
    ids = [content_hash(window) for window in decode_tokens(table)]
    index = table.schema.get_field_index("window_id")
    return table.set_column(index, table.schema.field(index), pa.array(ids, pa.string()))


DAMAGES: tuple[Damage, ...] = (
    flip_bytes,
    cut_tail,
    fill_with_zeros,
    append,
    swap_shards,
    remove_or_link,
    flip_manifest_bytes,
    cut_manifest,
    edit_manifest_field,
    edit_manifest_field,
)


FORGERIES: tuple[Damage, ...] = (forge_bytes, forge_values, forge_targets)
"""What an enemy does, who makes every checksum right again."""


def _any_file(store: Path, rng: random.Random) -> Path:
    """Return a shard, or the file with the output head or the vocabulary."""
    return rng.choice([*sorted((store / "shards").iterdir()), *sorted(store.glob("*.parquet"))])


def _edit(data: Any, rng: random.Random) -> str:
    """Replace, remove or repeat one value anywhere in a JSON value; return its dotted name."""
    container, key, name = rng.choice(_places(data, ""))
    value = container[key]
    other = rng.choice(
        [None, -1, 0, 1, 3, 2**31, 2**53, 10**30, 1e308, "", "../../etc/passwd", "/etc/passwd",
         "x" * 10_000, [], {}, [value, value], True, _nudged(value, rng)]
    )  # fmt: skip
    action = rng.random()
    if action < 0.8:
        container[key] = other
    elif isinstance(container, list):
        container.insert(key, value) if action < 0.9 else container.pop(key)
    else:
        del container[key]
    return name


def _nudged(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return value + rng.choice((-1, 1))
    return f"{value}x" if isinstance(value, str) else value


def _places(data: Any, name: str) -> list[tuple[Any, Any, str]]:
    """Return every (container, key, dotted name) in a JSON value."""
    keys = list(data) if isinstance(data, dict) else range(len(data))
    places = []
    for key in keys:
        places.append((data, key, f"{name}.{key}"))
        if isinstance(data[key], (dict, list)):
            places += _places(data[key], f"{name}.{key}")
    return places
