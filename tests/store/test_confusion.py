"""Columns of other types and values, every checksum right: only errors of ours come of it."""

from __future__ import annotations

import random
import shutil
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from softtargets.cli import main
from tests.forgery import forge_manifest, forge_shard, with_column
from tests.golden import write_store
from tests.windows import KINDS, make_vocabulary, make_window, of_own_documents

COMMANDS = (
    ("info", "store", "--detail"),
    ("verify", "store"),
    ("inspect", "store"),
    ("inspect", "store", "--list"),
    ("report", "store", "--output", "page.html"),
    ("merge", "store", "other", "--output", "merged"),
    ("filter", "store", "--output", "kept", "--source", "random"),
    ("split", "store", "--train", "train", "--validation", "validation"),
    ("export", "store", "plain", "--to", "plain"),
)
USAGE_ERROR = 2
"""How a command ends whose options are wrong: it has met no store."""
NUMBERS = (0, -1, 1, 7, 300, 2**31 - 1, -(2**31))
FLOATS = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e38, 1e-45)
FIELDS: tuple[Any, ...] = (
    None,
    -1,
    0,
    1,
    3,
    2**31 - 1,
    4.0,
    1e-300,
    "x",
    "",
    [],
    {},
    True,
    "token",
    "listed",
)


def other_types(num_rows: int) -> list[pa.Array]:
    """Return arrays of types that no column has."""
    wanted: list[tuple[Any, pa.DataType]] = [
        (None, pa.null()),
        ({"a": 1}, pa.struct({"a": pa.int64()})),
        ([1], pa.large_list(pa.int32())),
        ("x", pa.string_view()),
        (1, pa.timestamp("us")),
        ([[1]], pa.list_(pa.list_(pa.int32()))),
        ([1, 2], pa.list_(pa.int32(), 2)),
        ([{"a": 1}], pa.list_(pa.struct({"a": pa.int64()}))),
        ([("a", 1)], pa.map_(pa.string(), pa.int64())),
        ([None], pa.list_(pa.int32())),
        (2**63, pa.uint64()),
        (b"x", pa.binary()),
        (True, pa.bool_()),
    ]
    arrays = [pa.array([value] * num_rows, kind) for value, kind in wanted]
    decimals = pa.array([1] * num_rows, pa.int64()).cast(pa.decimal128(24, 2))
    return [*arrays, decimals, pa.array(["x"] * num_rows).dictionary_encode()]


def other_value(element: pa.DataType, rng: random.Random) -> Any:
    if pa.types.is_string(element):
        return rng.choice(["", "x", "<b>", "\x1b[31m", "0" * 32])
    if pa.types.is_boolean(element):
        return rng.random() < 0.5
    if pa.types.is_floating(element):
        return rng.choice(FLOATS)
    if pa.types.is_fixed_size_binary(element):
        return rng.randbytes(element.byte_width)
    return rng.choice(NUMBERS)


def confuse(store: Path, rng: random.Random) -> str:
    """Change a column's type, its values or how many there are, or a field of the identity."""
    changed: list[str] = []

    def change(table: pa.Table) -> pa.Table:
        name = rng.choice(table.column_names)
        kind = table.schema.field(name).type
        changed.append(f"{name} of {kind}")
        if rng.random() < 0.3:
            array = rng.choice(other_types(table.num_rows))
            return with_column(name, array, array.type)(table)
        rows, row = table.column(name).to_pylist(), rng.randrange(table.num_rows)
        if not isinstance(rows[row], list):
            rows[row] = other_value(kind, rng)
        elif rng.random() < 0.3 or not rows[row]:
            rows[row] = [other_value(kind.value_type, rng)] * rng.choice((0, 1, 2, 6, 40))
        else:
            rows[row][rng.randrange(len(rows[row]))] = other_value(kind.value_type, rng)
        return with_column(name, rows)(table)

    def edit(manifest: dict[str, Any]) -> None:
        targets = manifest["identity"]["targets"]
        place = rng.choice([targets, *(one for one in targets.values() if isinstance(one, dict))])
        name = rng.choice(sorted(place))
        place[name] = rng.choice(FIELDS)
        changed.append(f"{name} {place[name]!r}")

    if rng.random() < 0.2:
        forge_manifest(store, edit)
        # The shard then says the same as the manifest.
        forge_shard(store, lambda table: table)
    else:
        forge_shard(store, change)
    return ", ".join(changed)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a store and another one by kind of targets."""
    directory, numbers = tmp_path_factory.mktemp("sound"), np.random.default_rng(0)
    for kind, schema in KINDS.items():
        for name in ("store", "other"):
            windows = [make_window(numbers, schema, num_tokens=length)[0] for length in (6, 9)]
            units = [of_own_documents(windows)]
            write_store(directory / kind / name, schema, units, vocabulary=make_vocabulary())
    return directory


def try_once(seed: int, stores: Path) -> list[str]:
    """Return what ended otherwise than well or with an error of ours."""
    rng = random.Random(seed)
    kind = rng.choice(list(KINDS))
    with TemporaryDirectory() as directory, chdir(directory):
        shutil.copytree(stores / kind, directory, dirs_exist_ok=True)
        what = confuse(Path("store"), rng)
        failures = []
        for command in rng.sample(COMMANDS, 4):
            result = CliRunner().invoke(main, command)
            assert result.exit_code != USAGE_ERROR, result.output
            error = result.exception
            if error is not None and not isinstance(error, SystemExit):
                failures.append(f"{seed} {kind}, {what}: {' '.join(command)}: {error!r}")
    return failures


@pytest.mark.slow
def test_only_errors_of_ours_come_of_it(stores: Path) -> None:
    assert [line for seed in range(250) for line in try_once(seed, stores)] == []
