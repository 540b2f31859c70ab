"""Attacks by imports, corpora and cards: files of other people that are not stores."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from markdown_it import MarkdownIt
from transformers.models.llama import LlamaConfig, LlamaForCausalLM

from softtargets.layouts.distillkit_compression import CONFIG_NAME
from softtargets.sharing import unstated_licences
from softtargets.store.card import CARD_NAME
from tests.attacks.attack import Attack, Outcome, command
from tests.attacks.unpacking import MANY, forge_number, one_row, table_of_one
from tests.fakes import build_store, byte_tokenizer
from tests.layouts.readers import listed, write_rows

_TO = ("--output", "store", "--vocab-size", "300", "--values-are", "full", "--temperature", "1")
_AXOLOTL = command("import", "rows.parquet", "--from", "axolotl", *_TO)
_DISTILLKIT = command("import", "rows.parquet", "--from", "distillkit", *_TO)


def _left_behind(directory: Path, outcome: Outcome) -> str:
    if len(outcome.output) > 3000:
        return f"a message of {len(outcome.output):,} characters"
    return "a store was begun" if (directory / "store").exists() else ""


def _import(kind: str, name: str, prepare: Callable[[Path], object], **options: Any) -> Attack:
    return Attack(
        kind=kind, name=name, prepare=prepare, **({"run": _AXOLOTL, "harm": _left_behind} | options)
    )


# An import that unpacks to gigabytes.

_UNPACKS = "an import that unpacks to gigabytes"


def _one_page(directory: Path) -> None:
    one_row(directory / "rows.parquet", 100_000_000, use_dictionary=False, data_page_size=1 << 30,
            write_batch_size=1 << 28)  # fmt: skip


@cache
def _many_values() -> bytes:
    with TemporaryDirectory() as directory:
        return one_row(Path(directory) / "rows.parquet", MANY).read_bytes()


def _one_value(directory: Path) -> None:
    (directory / "rows.parquet").write_bytes(_many_values())


def _forged(directory: Path) -> None:
    _one_value(directory)
    forge_number(directory / "rows.parquet", MANY, 4)


def _many_rows(directory: Path) -> None:
    columns = {name: pa.array(value * 150_000) for name, value in listed(1).items()}
    write_rows(directory / "rows.parquet", columns)


def _many_files(directory: Path) -> None:
    one_row(directory / "rows.parquet", 1_000_000)
    content = (directory / "rows.parquet").read_bytes()
    for number in range(200):
        (directory / f"{number}.parquet").write_bytes(content)


def _many_groups(directory: Path) -> None:
    one_row(directory / "rows.parquet", 1_500_000)
    table = pq.read_table(directory / "rows.parquet")
    with pq.ParquetWriter(directory / "rows.parquet", table.schema) as writer:
        for _ in range(60):
            writer.write_table(table)


def _packed_arrow(directory: Path) -> None:
    table = table_of_one(100_000_000)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(str(directory / "rows.arrow"), table.schema, options=options) as writer:
        writer.write_table(table)


def _wide_target(directory: Path) -> None:
    """One target has 300 entries, and 3,000,000 others have one."""
    lists = [[[0.0]] * 100_000] * 30
    ids = [[[7], list(range(300)), *[[7]] * 99_998], *[[[7]] * 100_000] * 29]
    values = [[[-1.0], [-9.0] * 300, *[[-1.0]] * 99_998], *[[[-1.0]] * 100_000] * 29]
    tokens = pa.array([[number, *[2] * 99_999] for number in range(len(lists))])
    write_rows(directory / "rows.parquet",
               {"input_ids": tokens, "logprobs": values, "target_token_ids": ids})  # fmt: skip


# YAML that multiplies, and YAML that runs.

_MULTIPLIES = "YAML that multiplies or nests without end"


def _laughs() -> str:
    lines = ['a: &a ["ha", "ha", "ha", "ha", "ha", "ha", "ha", "ha", "ha"]']
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    return "\n".join(lines)


_YAML = {
    "aliases of aliases": _laughs(),
    "deep lists": "a: " + "[" * 50_000,
    "deep blocks": "- " * 50_000,
    "a long number": "d: 1" + "0" * 50_000,
    "numbers to the base of 60": "d: " + "1:" * 49_000 + "1",
    "an alias of itself": "a: &a [*a]",
    "ten megabytes": "d: 300\n" + "# \n" * 3_000_000,
    "a tag that runs code": "!!python/object/apply:os.system ['touch owned']",
}


def _with_config(text: str) -> Callable[[Path], object]:
    def prepare(directory: Path) -> None:
        write_rows(directory / "rows.parquet", listed())
        (directory / CONFIG_NAME).write_text(text)

    return prepare


def _ran_or_left(directory: Path, outcome: Outcome) -> str:
    return _ran(directory) or _left_behind(directory, outcome)


def _ran(directory: Path) -> str:
    return "code ran" if (directory / "owned").exists() else ""


def _with_front(text: str) -> Callable[[Path], object]:
    def prepare(directory: Path) -> None:
        build_store(directory)
        (directory / "store" / CARD_NAME).write_text(f"---\n{text}\n---\n# Card\n")

    return prepare


# Columns of another type than a layout has, and files that are something else.

_TYPES = "an import with columns of the wrong type"
_ODD: dict[str, pa.Array] = {
    "null": pa.nulls(2),
    "structures": pa.array([{"a": 1}] * 2),
    "texts": pa.array([[["1"]]] * 2),
    "decimals": pa.array([[[1]]] * 2, pa.list_(pa.list_(pa.decimal128(9, 2)))),
    "times": pa.array([[[1]]] * 2, pa.list_(pa.list_(pa.timestamp("us")))),
    "lists of dictionaries": pa.array([["a"]] * 2, pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    "lists of no length": pa.array([[[]]] * 2, pa.list_(pa.list_(pa.float32(), 0))),
    "not a number": pa.array([[[float("nan")] * 3] * 4] * 2),
    "flat numbers": pa.array([1.0, 2.0]),
}


def _odd_column(column: pa.Array) -> Callable[[Path], object]:
    return lambda directory: write_rows(directory / "rows.parquet", listed(logprobs=column))


def _twice(directory: Path) -> None:
    table = pa.table(listed())
    pq.write_table(
        table.append_column("logprobs", table.column("logprobs")), directory / "rows.parquet"
    )


def _control_names(directory: Path) -> None:
    write_rows(directory / "rows.parquet", {"\x1b[2J\u202e" * 999: [1]})


def _of_bytes(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes(content)


def _deep_metadata(directory: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    pq.write_table(
        pa.table(listed()).replace_schema_metadata({"softtargets": deep}),
        directory / "rows.parquet",
    )


# A corpus that is hostile to build and plan.

_CORPUS = "a corpus that unpacks to gigabytes"
_RECORDS = "a corpus with records that cannot be stored"


def _with_teacher(prepare: Callable[[Path], object]) -> Callable[[Path], object]:
    def both(directory: Path) -> None:
        config = LlamaConfig(vocab_size=256, hidden_size=16, intermediate_size=16,
                             num_hidden_layers=1, num_attention_heads=2)  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(directory / "teacher")
        byte_tokenizer().save_pretrained(directory / "teacher")
        prepare(directory)

    return both


_BUILD = ("build", "--teacher", "teacher", "--output", "store", "--sequence-length", "1024",
          "--top-k", "4", "--dtype", "float32")  # fmt: skip


def _corpus(
    kind: str, name: str, file: str, prepare: Callable[[Path], object], *options: str, **more: Any
) -> Attack:
    run = command(*_BUILD, "--input", file, *options)
    return Attack(kind=kind, name=name, prepare=_with_teacher(prepare), run=run, **more)


def _zst(num_bytes: int, piece: bytes) -> Callable[[Path], object]:
    def prepare(directory: Path) -> None:
        with zstandard.open(directory / "a.jsonl.zst", "wb") as file:
            for _ in range(num_bytes // len(piece)):
                file.write(piece)

    return prepare


def _gz(directory: Path) -> None:
    (directory / "a.txt.gz").write_bytes(150 * gzip.compress(b" " * 10_000_000))


def _texts_of_one(directory: Path) -> None:
    """All rows have the same text."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10**5, np.int32)), ["a" * 20_000])
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": column}), sink, compression="zstd", write_statistics=False)
    (directory / "a.parquet").write_bytes(sink.getvalue())


def _record(**fields: Any) -> Callable[[Path], object]:
    return _of_bytes("a.jsonl", json.dumps(fields).encode() + b"\n")


_FIELDS = ("--id-field", "id", "--metadata-field", "url")
_SOUND = {"text": "Alice was beginning to get very tired.", "id": "1", "url": "u"}

# Markup in a card.

_MARKUP = "markup in a name that a card shows"
_NAMES = {
    "code that ends": "`</code><script>alert(1)</script>",
    "a link": "[a](http://evil.example) ![b](http://evil.example/pixel.png)",
    "a cell of a table": "a | b | c",
    "fields of YAML": "x\n---\nlicense: mit\n---\n# Other",
    "a mark": "x\n<!-- softtargets:end description -->\n",
    "turned letters": "\u202egpj.exe\u2066",
}


def _shows_alone(directory: Path, _: Outcome) -> str:
    card = directory / "store" / CARD_NAME
    text = card.read_text()
    if "license, in the YAML" not in unstated_licences(card):
        return "a name became a field of the YAML"
    html = MarkdownIt("commonmark").enable("table").render(text.partition("\n---\n")[2])
    for found in ("<a ", "<img", "<script", "\u202e", "\u2066"):
        if found in html:
            return f"a name became {found!r}"
    return "" if text.count("\n<!-- softtargets:end") == 2 else "a name became a mark"


def _named(name: str) -> Attack:
    return Attack(
        kind=_MARKUP,
        name=next(key for key, value in _NAMES.items() if value == name),
        prepare=lambda directory: write_rows(directory / "rows.parquet", listed()),
        run=command(
            "import",
            "rows.parquet",
            "--from",
            "axolotl",
            *_TO,
            "--teacher",
            name,
            "--license",
            name,
        ),
        wanted="survived",
        harm=_shows_alone,
    )


ATTACKS: tuple[Attack, ...] = (
    _import(_UNPACKS, "one value", _one_value),
    _import(_UNPACKS, "one page of zeros", _one_page),
    _import(_UNPACKS, "a footer that understates", _forged),
    _import(_UNPACKS, "rows without end", _many_rows),
    _import(_UNPACKS, "many row groups", _many_groups),
    _import(
        _UNPACKS, "many files", _many_files,
        run=command("import", ".", "--from", "axolotl", *_TO),
    ),
    _import(
        _UNPACKS, "packed buffers of Arrow", _packed_arrow,
        run=command("import", "rows.arrow", "--from", "axolotl", *_TO),
    ),
    _import(_UNPACKS, "one wide target and many narrow ones", _wide_target),
    *(
        _import(_MULTIPLIES, f"{name}, beside an import", _with_config(text), run=_DISTILLKIT,
                harm=_ran_or_left)
        for name, text in _YAML.items()
    ),
    *(
        Attack(kind=_MULTIPLIES, name=f"{name}, in a card", prepare=_with_front(text),
               run=command("card", "store"), harm=lambda place, _: _ran(place))
        for name, text in _YAML.items()
    ),
    *(_import(_TYPES, name, _odd_column(column)) for name, column in _ODD.items()),
    _import(_TYPES, "a column twice", _twice),
    _import(_TYPES, "names of control characters", _control_names),
    _import(_TYPES, "no Parquet", _of_bytes("rows.parquet", b"PAR1" + bytes(99) + b"PAR1")),
    _import(_TYPES, "an encrypted footer", _of_bytes("rows.parquet", b"PARE" * 9)),
    _import(
        _TYPES, "deep metadata", _deep_metadata,
        run=command("import", "rows.parquet", "--from", "plain", "--output", "store"),
    ),
    _corpus(_CORPUS, "a line without end", "a.jsonl.zst", _zst(3 * 10**9, b"a" * 10**6)),
    _corpus(_CORPUS, "lines without end", "a.jsonl.zst", _zst(10**9, b'{"text": "ab"}\n' * 10**5)),
    _corpus(_CORPUS, "empty lines without end", "a.jsonl.zst", _zst(3 * 10**9, b"\n" * 10**6)),
    _corpus(_CORPUS, "a text without end", "a.txt.gz", _gz),
    _corpus(_CORPUS, "one text for all rows", "a.parquet", _texts_of_one),
    _corpus(_RECORDS, "half a surrogate pair", "a.jsonl", _record(**_SOUND | {"text": "a\ud800"})),
    _corpus(_RECORDS, "half a pair in an id", "a.jsonl", _record(**_SOUND | {"id": "\ud800"}),
            *_FIELDS),
    _corpus(_RECORDS, "half a pair in metadata", "a.jsonl", _record(**_SOUND | {"url": "\udfff"}),
            *_FIELDS),
    _corpus(_RECORDS, "metadata of megabytes", "a.jsonl",
            _record(**_SOUND | {"text": "ab" * 10**5, "url": "u" * 3_000_000}), *_FIELDS),
    _corpus(_RECORDS, "deep JSON", "a.jsonl", _of_bytes("a.jsonl", b"[" * 10**6)),
    _corpus(_RECORDS, "a number of a million digits", "a.jsonl",
            _of_bytes("a.jsonl", b'{"text": ' + b"1" * 10**6 + b"}")),
    _corpus(_RECORDS, "ragged token ids", "a.jsonl", _record(ids=[[1], [1, 2]]),
            "--input-ids-field", "ids"),
    _corpus(_RECORDS, "a pipe", "a.jsonl", lambda place: os.mkfifo(place / "a.jsonl")),
    _corpus(_RECORDS, "a name that is no UTF-8", "*.jsonl",
            lambda place: (place / os.fsdecode(b"\xff.jsonl")).write_text('{"text": "ab"}')),
    _corpus(_RECORDS, "zeros and control characters", "a.jsonl",
            _record(**_SOUND | {"text": "a\0\x1b[2J\u202eb", "id": "\x1b\0", "url": "\u202e"}),
            *_FIELDS, wanted="survived"),
    *map(_named, _NAMES.values()),
)  # fmt: skip
