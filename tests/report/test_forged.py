"""A store that contradicts itself is said to, and not shown."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from softtargets.cli import main
from softtargets.errors import CorruptionError
from softtargets.report.page import report
from softtargets.store import Store
from tests.forgery import forge_shard
from tests.golden import write_store
from tests.windows import KINDS, make_vocabulary, make_window

WHERE = r"window \w{32}|row group 0"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["report", "inspect", "inspect --json", "inspect --window"])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("top_logit", math.nan),
        ("top_logit", math.inf),
        ("tail_mass_t1", -1.0),
        ("tail_mass_t1", math.nan),
        ("label_logit", math.inf),
        ("label_rank", -1),
        ("input_ids", -1),
        ("input_ids", 300),
        ("num_entries", 0),
        ("document_ids", None),
        ("segment_lengths", 2**31 - 1),
    ],
)
def test_values_that_cannot_be_are_refused(
    tmp_path: Path, column: str, value: Any, command: str
) -> None:
    rng, schema = np.random.default_rng(0), KINDS["topk"]
    windows = [make_window(rng, schema, num_tokens=9)[0]]
    store = write_store(tmp_path / "store", schema, [windows], vocabulary=make_vocabulary())

    def change(table: pa.Table) -> pa.Table:
        cells = table.column(column).to_pylist()
        cells[0] = [] if value is None else [value, *cells[0][1:]]
        index = table.column_names.index(column)
        return table.set_column(
            index, table.schema.field(index), pa.array(cells, table.schema.types[index])
        )

    forge_shard(store.root, change)
    if command == "report":
        with pytest.raises(CorruptionError, match=WHERE):
            report(Store.open(store.root))
        return
    name, *options = command.split()
    arguments = [name, str(store.root), *options]
    if options == ["--window"]:
        arguments.append(windows[0].window_id[:8])
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), result.exception
    assert re.search(WHERE, result.output)
