"""The plain layout, which holds every store, and which that store is made of again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from softtargets.errors import CorpusError
from softtargets.hashes import describe_file
from softtargets.layouts.foreign_files import (
    METADATA_KEY,
    InputFile,
    check_cells,
    list_files,
    open_files,
    read_metadata,
)
from softtargets.layouts.layout import Layout, Way
from softtargets.layouts.parquet_export import (
    ABOUT_NAME,
    describe_store,
    new_directory,
    write_json,
    write_shards,
)
from softtargets.layouts.plain_head import plain_head, read_plain_head
from softtargets.layouts.plain_rows import PlainRows, plain_columns
from softtargets.layouts.plain_table import plain_table
from softtargets.places.local_files import write_file
from softtargets.places.open_place import StorePath, place_to_write
from softtargets.store.json_schemas import check_schema
from softtargets.store.layer_file import LAYERS_NAME, decode_layers
from softtargets.store.new_store import write_store
from softtargets.store.output_head import OUTPUT_HEAD_NAME, encode_output_head
from softtargets.store.side_file import read_side_file
from softtargets.store.store import Store
from softtargets.store.vocabulary import VOCABULARY_NAME, decode_vocabulary
from softtargets.targets import Origin, TargetSchema
from softtargets.window import Window


class Plain(Layout):
    """Parquet with nested lists of everything, one file for each shard.

    The columns are those of `plain_table`. An output head is `_head.parquet` with a row for each
    id: `weight` (a list) and `bias`; readers of a directory skip files that begin so. The
    vocabulary is `_vocabulary.parquet`. The store's fingerprint, its targets and its identity are
    in each file's metadata under `softtargets`, and in `_softtargets.json`.
    """

    name: ClassVar[str] = "plain"
    reads: ClassVar[Way] = Way("what 'softtargets export --to plain' wrote.")
    writes: ClassVar[Way] = Way("Parquet with nested lists of everything.")

    @classmethod
    def write(cls, path: str | Path, output: str | Path) -> Path:
        """Write a store, and return the directory. `read` makes the store of it again.

        Raises:
            StoreError: the store cannot be read, or the output is not an empty directory.
        """
        store, directory = Store.open(path), new_directory(output)
        manifest = store.manifest
        about = describe_store(store) | {
            "teacher": manifest.teacher,
            "corpus": dict(manifest.corpus),
            "identity": dict(manifest.identity),
        }

        def tables(groups: Iterator[list[Window]]) -> Iterator[pa.Table]:
            # One large row group is a quarter smaller than several.
            yield pa.concat_tables(plain_table(windows, store.targets) for windows in groups)

        write_shards(store, directory, about, tables)
        if store.targets.output_head is not None:
            head = plain_head(store.output_head(), json.dumps(about))
            write_file(directory / f"_{OUTPUT_HEAD_NAME}", head)
        for name, entry in manifest.side_files.items():
            if name != OUTPUT_HEAD_NAME:
                content = read_side_file(store.location, name, entry)
                write_file(directory / f"_{name}", content)
        write_json(directory / f"_{ABOUT_NAME}", {"layout": cls.name, **about})
        return directory

    @classmethod
    def read(cls, paths: Sequence[str | Path], output: StorePath) -> Store:
        """Make the store again that `write` wrote, and return it.

        Ids, masks, counts, tail masses, labels and draws are the same, and so are logits in steps;
        lossless ones are within float32's rounding. The identity is that of the store it was
        written from, with a step `import` in `derived` that names the files. As with
        `import_lists`, every row is checked before the first is written, and an interrupted import
        is continued.

        Raises:
            CorpusError: a file is none that `write` wrote, or of another store than the first.
            CorruptionError: the vocabulary or the output head beside it is damaged.
            SoftTargetsError: what else `Layout.read` raises.
        """
        files = list_files(paths)
        about = _read_about(files)
        step = {
            "operation": "import",
            "fingerprint": about["fingerprint"],
            "files": [describe_file(path) for path in files],
        }
        identity = {
            **about["identity"],
            "derived": [*about["identity"].get("derived", ()), step],
        }
        schema, origin = TargetSchema.from_dict(identity["targets"]), Origin.of(identity)
        opened = open_files(files, plain_columns(schema))
        _check_windows(opened, schema, origin)
        return write_store(
            _windows(opened, schema, origin),
            place_to_write(output),
            identity,
            teacher=about["teacher"],
            side_files=lambda: _side_files(files[0].parent, schema),
            counts=dict(about["corpus"]),
            next_step="The files have no row.",
        )


export_plain, import_plain = Plain.write, Plain.read


def _check_windows(files: Sequence[InputFile], schema: TargetSchema, origin: Origin) -> None:
    max_entries = 0 if schema.head is None else schema.head.max_entries
    num_targets = 0
    for window in _windows(files, schema, origin):
        num_targets += len(window.packed)
    check_cells(files, num_targets, max_entries)


def _windows(files: Sequence[InputFile], schema: TargetSchema, origin: Origin) -> Iterator[Window]:
    seen = set()
    for file in files:
        for first, batch in file.batches():
            for window in PlainRows(batch, schema, origin, str(file.path), first).windows():
                if window.window_id in seen:
                    raise CorpusError(
                        f"{file.path}, window {window.window_id}",
                        expected="a window that no file had before",
                        found="it again",
                        next_step="Pass every file of an export once.",
                    )
                seen.add(window.window_id)
                yield window


def _read_about(files: Sequence[Path]) -> dict[str, Any]:
    """Return what the files' metadata say they were written from, which has to be the same."""
    first: dict[str, Any] | None = None
    for path in files:
        about = _parse_about(read_metadata(path, METADATA_KEY), path)
        if first is not None and about != first:
            raise CorpusError(
                str(path),
                expected=f"a file of the store {first['fingerprint']}, as {files[0]} is",
                found=f"one of {about['fingerprint']}",
                next_step="Import each export by itself, then merge.",
            )
        first = about
    assert first is not None
    check_schema(first["identity"], "identity", str(files[0]), field="identity")
    return first


def _parse_about(metadata: bytes | None, path: Path) -> dict[str, Any]:
    try:
        about = json.loads(metadata or b"")
    except (ValueError, RecursionError):
        about = None
    kinds = {"fingerprint": str, "identity": dict, "teacher": str, "corpus": dict}
    is_sound = isinstance(about, dict) and all(
        isinstance(about.get(name), kind) for name, kind in kinds.items()
    )
    if not is_sound or not all(_is_count(one) for one in about["corpus"].values()):
        raise CorpusError(
            str(path),
            expected=f"metadata {METADATA_KEY} with {', '.join(kinds)}",
            found="none" if metadata is None else f"{metadata[:80]!r}",
            next_step="Only what 'softtargets export --to plain' of this release wrote is imported "
            "as plain; --from has layouts of others.",
        )
    found: dict[str, Any] = about
    return found


def _is_count(value: object) -> bool:
    """Return whether a number may be a count in a manifest, which every language can read."""
    return type(value) is int and 0 <= value < 1 << 53


def _side_files(directory: Path, schema: TargetSchema) -> dict[str, bytes]:
    """Return the output head, the layers and the vocabulary that lie beside plain files."""
    found = {}
    vocabulary, head = (directory / f"_{name}" for name in (VOCABULARY_NAME, OUTPUT_HEAD_NAME))
    if vocabulary.is_file():
        found[VOCABULARY_NAME] = vocabulary.read_bytes()
        decode_vocabulary(found[VOCABULARY_NAME], str(vocabulary))
    if schema.output_head is not None:
        found[OUTPUT_HEAD_NAME] = encode_output_head(read_plain_head(head, schema))
    if schema.layers is not None:
        layers = directory / f"_{LAYERS_NAME}"
        if not layers.is_file():
            raise CorpusError(
                str(layers),
                expected="the teacher's layers, which the files were exported with",
                found="no file",
                next_step="Copy it there, or export the store again.",
            )
        found[LAYERS_NAME] = layers.read_bytes()
        decode_layers(found[LAYERS_NAME], schema.layers, str(layers))
    return found
