"""Attacks by a store's manifest, its shards and the files beside them."""

from __future__ import annotations

import faulthandler
import json
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softtargets import SoftTargetDataset
from softtargets.errors import SoftTargetsError
from softtargets.store.layer_file import encode_layers
from softtargets.store.output_head import encode_output_head
from softtargets.store.vocabulary import encode_vocabulary
from softtargets.tokenizer import Vocabulary
from tests.attacks.attack import Attack, command
from tests.forgery import (
    TableChange,
    forge_manifest,
    forge_shard,
    forge_side_file,
    put_shard,
    with_column,
    with_tensors,
    with_texts,
    with_zeros,
)
from tests.golden import write_store
from tests.windows import (
    KINDS,
    head_schema,
    make_head,
    make_layers,
    make_vocabulary,
    make_window,
    of_own_documents,
)

_BOMB = "a shard that unpacks to gigabytes"
_MANIFEST = "a manifest that asks for memory, time or a deep stack"
_BESIDE = "a vocabulary or output head that unpacks to gigabytes or is of another type"
_LAYERS = "layers of more axes than numpy has, or of a size with millions of digits"
_TYPES = "columns of other types"
_VALUES = "numbers that cannot be"


def _stream(directory: Path) -> None:
    try:
        for batch in SoftTargetDataset(directory / "store", shuffle=True, seed=0, batch_size=2):
            batch.soft_targets(temperature=1.0)
    except SoftTargetsError as error:
        raise SystemExit(str(error)) from error


_READERS: dict[str, Callable[[Path], None]] = {
    "verify": command("verify", "store"),
    "info --detail": command("info", "store", "--detail"),
    "inspect": command("inspect", "store"),
    "report": command("report", "store", "--output", "page.html"),
    "split": command("split", "store", "--train", "train", "--validation", "validation"),
    "export": command("export", "store", "plain", "--to", "plain"),
    "streaming": _stream,
}


def _write(directory: Path, kind: str = "topk", num_windows: int = 4) -> Path:
    rng, root = np.random.default_rng(0), directory / "store"
    schema = head_schema(make_head()) if kind == "head" else KINDS[kind]
    windows = [make_window(rng, schema, num_tokens=20)[0] for _ in range(num_windows)]
    write_store(root, schema, [of_own_documents(windows)], vocabulary=make_vocabulary())
    return root


def _with_shard(directory: Path, change: Callable[[], TableChange], **options: Any) -> None:
    forge_shard(_write(directory), change(), **options)


_DELTA = {"column_encoding": {"document_ids.list.element": "DELTA_BYTE_ARRAY"}}
_BOMBS: dict[str, tuple[Callable[[], TableChange], dict[str, Any]]] = {
    "a run of one number": (partial(with_zeros, "escapes", 110_000_000), {"use_dictionary": True}),
    "zeros in zstd": (partial(with_zeros, "escapes", 110_000_000), {"use_dictionary": False}),
    "segments without end": (
        partial(with_zeros, "segment_lengths", 110_000_000),
        {"use_dictionary": True},
    ),
    "one long text, often": (partial(with_texts, 500_000, 1600), {"use_dictionary": True}),
    "texts that repeat the one before": (
        partial(with_texts, 20_000, 40_000),
        {"use_dictionary": False, **_DELTA},
    ),
}


def _bombs() -> list[Attack]:
    prepared = {
        name: partial(_with_shard, change=change, **options)
        for name, (change, options) in _BOMBS.items()
    }
    return [
        Attack(kind=_BOMB, name=f"{name}: {reader}", prepare=prepare, is_shared=True, run=run)
        for name, prepare in prepared.items()
        for reader, run in _READERS.items()
        if _reads_texts(reader) or "text" not in name
        if reader != "info --detail"
    ]


def _reads_texts(reader: str) -> bool:
    """Return whether a reader unpacks the names of documents: batches are made without them."""
    return reader != "streaming"


def _edited(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    forge_manifest(_write(directory), change)


def _replaced(directory: Path, field: str, text: Callable[[], str]) -> None:
    path = _write(directory) / "manifest.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, field: "@"}).replace('"@"', text()))


def _nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def _repeat_with_long_path(manifest: dict[str, Any]) -> None:
    [shard] = manifest["shards"]
    manifest["shards"] = [{**shard, "unit": unit} for unit in range(5000)]
    manifest["shards"][7]["path"] = f"shards/{'a' * 3_000_000}.parquet"


def _many_temperatures(manifest: dict[str, Any]) -> None:
    manifest["identity"]["targets"]["temperatures"] = [
        1 + number / 1e4 for number in range(500_000)
    ]


def _many_features(manifest: dict[str, Any]) -> None:
    manifest["identity"]["targets"]["features"] = [
        {"name": f"f{number}", "width": 1, "rows": "tokens", "dtype": "int8"}
        for number in range(100_000)
    ]


def _many_windows(manifest: dict[str, Any]) -> None:
    manifest["shards"][0]["row_groups"][0]["num_windows"] = 2**53 - 1


def _fraction(manifest: dict[str, Any]) -> None:
    manifest["identity"]["targets"]["head"]["max_entries"] = 8.0


_TEXTS: dict[str, tuple[str, Callable[[], str]]] = {
    "10 MB of brackets": ("shards", partial("[".__mul__, 9_900_000)),
    "3 million empty shards": ("shards", lambda: "[" + "{}," * 3_300_000 + "{}]"),
    "3 million empty lists": ("shards", lambda: "[" + "[]," * 3_300_000 + "[]]"),
    "5 million numbers": ("shards", lambda: "[" + "0," * 4_900_000 + "0]"),
    "900 levels in the identity": ("identity", partial(_nested, 900)),
    "150 levels of what nobody knows": ("corpus", partial(_nested, 150)),
    "a number of 5000 digits": ("teacher", partial("1".__mul__, 5000)),
    "a version of 5000 digits": ("format_version", lambda: f'"2.{"9" * 5000}"'),
    "half a character": ("teacher", lambda: r'"\ud800"'),
    "half a character as a key": ("corpus", lambda: r'{"\udfff": 1}'),
    "a field twice": ("teacher", lambda: '"a", "teacher": "b"'),
    "NaN": ("corpus", lambda: '{"windows": NaN}'),
    "an infinite number": ("corpus", lambda: '{"windows": 1e999}'),
}
_EDITS: dict[str, Callable[[dict[str, Any]], None]] = {
    "one long path among thousands": _repeat_with_long_path,
    "500,000 temperatures": _many_temperatures,
    "100,000 features": _many_features,
    "2^53 windows": _many_windows,
    "a whole number with a fraction": _fraction,
}


def _manifests() -> list[Attack]:
    prepared: dict[str, Callable[[Path], None]] = {
        name: partial(_replaced, field=field, text=text) for name, (field, text) in _TEXTS.items()
    }
    prepared |= {name: partial(_edited, change=change) for name, change in _EDITS.items()}
    return [
        Attack(
            kind=_MANIFEST,
            name=f"{name}: {reader}",
            prepare=prepare,
            is_shared=True,
            run=_READERS[reader],
        )
        for name, prepare in prepared.items()
        for reader in ("verify", "info --detail", "streaming")
    ]


def _with_vocabulary(directory: Path, length: int, num: int) -> None:
    tokens = ("y" * length,) * num
    vocabulary = Vocabulary(ids_N=np.arange(num, dtype=np.int32), tokens=tokens, utf8=(None,) * num)
    forge_side_file(_write(directory), "vocabulary", encode_vocabulary(vocabulary))


def _with_head(directory: Path, kind: pa.DataType) -> None:
    root = _write(directory, "head")
    rows = [{"a": 1} if pa.types.is_struct(kind) else None] * 300
    table = pa.table({"weight": pa.array(rows, kind), "bias": pa.array([0.0] * 300, pa.float32())})
    forge_side_file(root, "head", _as_parquet(table))


def _with_other_head(directory: Path) -> None:
    forge_side_file(_write(directory, "head"), "head", encode_output_head(make_head(299)))


def _with_zero_head(directory: Path) -> None:
    root, rows = _write(directory, "head"), 40_000_000
    weight = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(12), rows, [None, pa.py_buffer(bytes(12 * rows))]
    )
    forge_side_file(root, "head", _as_parquet(pa.table({"weight": weight})))

    def change(manifest: dict[str, Any]) -> None:
        targets = manifest["identity"]["targets"]
        targets["vocab_size"] = rows
        del targets["output_head"]["bias"]

    forge_manifest(root, change)


def _with_layers(directory: Path, shape: list[int]) -> None:
    root = _write(directory, "layers-to-run-again")
    content = encode_layers(make_layers())
    changed = with_tensors(content, lambda header: header["1.dense.bias"].update(shape=shape))
    forge_side_file(root, "layers", changed)


def _as_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


_SIDE_FILES: dict[str, Callable[[Path], None]] = {
    "4,000 long tokens in 10 kB": partial(_with_vocabulary, length=200_000, num=4000),
    "3 million tokens": partial(_with_vocabulary, length=1, num=3_000_000),
    "a head of nulls": partial(_with_head, kind=pa.null()),
    "a head of structs": partial(_with_head, kind=pa.struct({"a": pa.int32()})),
    "a head of 299 rows": _with_other_head,
    "a head of 480 MB of zeros": _with_zero_head,
}


def _beside() -> list[Attack]:
    return [
        Attack(
            kind=_BESIDE, name=name, prepare=prepare, is_shared=True, run=command("verify", "store")
        )
        for name, prepare in _SIDE_FILES.items()
    ] + [
        Attack(
            kind=_BESIDE,
            name=f"4,000 long tokens in 10 kB: {reader}",
            prepare=_SIDE_FILES["4,000 long tokens in 10 kB"],
            is_shared=True,
            run=_READERS[reader],
        )
        for reader in ("inspect", "report")
    ]


_OTHER_TYPES: dict[str, pa.Array] = {
    "nulls": pa.nulls(4),
    "structs": pa.array([{"a": 1}] * 4),
    "dictionaries": pa.array(["x"] * 4).dictionary_encode(),
    "large lists": pa.array([[1]] * 4, pa.large_list(pa.int32())),
    "views of texts": pa.array(["x"] * 4, pa.string_view()),
    "times": pa.array([1] * 4, pa.timestamp("us")),
    "lists of lists": pa.array([[[1]]] * 4),
}


_SHAPES = {"71 axes": [6] + 70 * [1], "20 million digits": 5000 * [10**4000]}


def _layers() -> list[Attack]:
    return [
        Attack(
            kind=_LAYERS,
            name=name,
            prepare=partial(_with_layers, shape=shape),
            run=command("verify", "store"),
        )
        for name, shape in _SHAPES.items()
    ]


def _types() -> list[Attack]:
    return [
        Attack(
            kind=_TYPES,
            name=f"{name} in {column}: {reader}",
            prepare=partial(_with_shard, change=partial(with_column, column, array, array.type)),
            run=_READERS[reader],
        )
        for number, (name, array) in enumerate(_OTHER_TYPES.items())
        for column in ("input_ids", "window_id", "steps")
        for reader in ("verify", list(_READERS)[1 + number % (len(_READERS) - 1)])
    ]


def _with_histogram(directory: Path) -> None:
    """Change the length of a histogram of sizes, so that Arrow ends whoever asks for it."""
    root = _write(directory)
    forge_shard(root, lambda table: table, write_statistics=True)
    content = bytearray(next((root / "shards").iterdir()).read_bytes())
    for place in range(len(content) - 8 - int.from_bytes(content[-8:-4], "little"), len(content)):
        if content[place] in (0x16, 0x26):  # A list of one or two numbers of 64 bits.
            content[place] ^= 0x30
            if _ends_arrow(bytes(content)):
                put_shard(root, bytes(content), num_windows=4)
                return
            content[place] ^= 0x30
    raise AssertionError("Arrow knows of no histogram that it refuses")


def _ends_arrow(content: bytes) -> bool:
    process_id = os.fork()
    if process_id == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            faulthandler.disable()
            metadata = pq.read_metadata(pa.BufferReader(content))
            for column in range(metadata.num_columns):
                metadata.row_group(0).column(column)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(process_id, 0)[1])


def _with_value(directory: Path, column: str, value: Any) -> None:
    root = _write(directory)

    def change(table: pa.Table) -> pa.Table:
        cells = table.column(column).to_pylist()
        cells[0] = [] if value is None else [value, *cells[0][1:]]
        return with_column(column, cells)(table)

    forge_shard(root, change)


def _values() -> list[Attack]:
    return [
        *(
            Attack(
                kind="a footer at which Arrow ends the process",
                name=name,
                prepare=_with_histogram,
                is_shared=True,
                run=run,
            )
            for name, run in _READERS.items()
        ),
        *(
            Attack(
                kind=_VALUES,
                name=f"{value} in {column}: {reader}",
                prepare=partial(_with_value, column=column, value=value),
                run=_READERS[reader],
            )
            for column, value in (
                ("top_logit", math.nan),
                ("top_logit", math.inf),
                ("tail_mass_t1", -1.0),
                ("label_rank", -1),
                ("input_ids", 2**31 - 1),
                ("segment_lengths", 2**31 - 1),
                ("document_ids", None),
            )
            for reader in ("verify", "inspect", "report")
        ),
    ]


ATTACKS = (*_bombs(), *_manifests(), *_beside(), *_layers(), *_types(), *_values())
