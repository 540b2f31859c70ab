"""FORMAT.md is enough: its code reads every golden store, and its worked numbers are theirs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rfc8785

from softtargets import Store
from softtargets.store.shard_table import ShardEntry
from softtargets.targets import temperature_text
from softtargets.window import Window
from tests.golden import GOLDEN

PAGE = (Path(__file__).parent.parent / "schemas" / "FORMAT.md").read_text()


def column_names(store: Store) -> list[str]:
    names: list[str] = pq.read_schema(Path(store.root, store.manifest.shards[0].path)).names
    return names


def has_planes(store: Store) -> bool:
    """Return whether the first sample says that it reads a store."""
    names = column_names(store)
    has_grid = not store.targets.temperatures or any("tail_mass_t" in name for name in names)
    return store.manifest.format_version != "1.0" and "id_plane_0" in names and has_grid


STORES = {path.name: Store.open(path / "store") for path in sorted(GOLDEN.iterdir())}
WITH_PLANES = [name for name, store in STORES.items() if has_planes(store)]
WITH_TAIL_AT_1 = [name for name, store in STORES.items() if "tail_mass_t1" in column_names(store)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def run_sample(code: str) -> tuple[dict[str, Any], str]:
    """Return the names that a sample defines, and what it prints."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "FORMAT.md", "exec"), names)
    return names, printed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_PLANES)
def test_the_first_sample_reads_every_store_with_id_planes(name: str) -> None:
    code = blocks("python")[0]
    store = STORES[name]
    windows = list(store)
    for shard in store.manifest.shards:
        own = [windows.pop(0) for _ in range(shard.num_windows)]
        path = str(GOLDEN / name / "store" / shard.path)
        found, printed = run_sample(code.replace("my-store/shards/unit-000000.parquet", path))
        kept = np.concatenate([np.isfinite(one.targets.logits_TK) for one in own])
        ids = np.concatenate([one.targets.ids_TK for one in own])
        np.testing.assert_array_equal(found["ids"][kept], ids[kept])
        logits = np.concatenate([one.targets.logits_TK for one in own])
        np.testing.assert_array_equal(found["z"].astype(np.float32), logits)
        assert tuple(found["logprobs"]) == store.targets.temperatures
        for tau, logprobs in found["logprobs"].items():
            expected = np.concatenate([one.targets.logprobs_TK(tau) for one in own])
            # softtargets rounds logits to float32 before it divides by the temperature.
            rounding = float(np.spacing(np.abs(logits[kept]).max())) / tau
            np.testing.assert_allclose(logprobs, expected, rtol=1e-6, atol=1e-6 + rounding)
        assert len(printed.splitlines()) >= 1 + len(store.targets.temperatures)
    assert not windows


def test_the_first_sample_meets_what_is_hard() -> None:
    targets = [STORES[name].targets for name in WITH_PLANES]
    assert any(one.metadata for one in targets)
    assert any(not one.temperatures for one in targets)
    assert any(one.head and one.head.values == "float32" for one in targets)
    assert any(one.head and one.head.max_entries % 2 for one in targets)
    assert any(
        (window.targets.num_entries_T < window.targets.ids_TK.shape[1]).any()
        for name in WITH_PLANES
        for window in STORES[name]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_TAIL_AT_1)
def test_the_second_sample_asks_every_store_with_a_tail_at_1(name: str) -> None:
    _, code, _ = blocks("python")
    files = str(GOLDEN / name / "store" / "shards" / "*.parquet")
    _, printed = run_sample(code.replace("my-store/shards/*.parquet", files))

    def tail(window: Window) -> float:
        at = STORES[name].targets.temperatures.index(1.0)
        return float(window.targets.tail_mass_TG[:, at].astype(float).sum())

    assert printed.splitlines()[-1] == max(STORES[name], key=tail).window_id
    least_sure = max(STORES[name], key=lambda one: tail(one) / len(one.mask_T))
    assert least_sure.window_id[:8] in printed
    sources = {window.source for window in STORES[name]}
    assert any(source in printed for source in sources)


def test_the_sample_of_the_table_of_shards_lists_them() -> None:
    [store] = [one for one in STORES.values() if one.manifest.shard_table is not None]
    code = blocks("python")[2].replace("big-store", str(store.root))
    found, _ = run_sample(code)
    assert [ShardEntry.from_dict(one) for one in found["shards"]] == list(store.manifest.shards)


def test_the_worked_identity_has_its_hash() -> None:
    [text] = blocks("json")
    text = text.replace("\n", "")
    store = STORES["imported-1.3"]
    written = json.loads((GOLDEN / "imported-1.3" / "store" / "manifest.json").read_text())
    assert text.encode() == rfc8785.dumps(written["identity"])
    assert hashlib.sha256(text.encode()).hexdigest() == store.fingerprint
    assert f"Its SHA-256 is `{store.fingerprint}`." in PAGE


def test_the_program_for_node_is_the_one_that_was_run() -> None:
    """It was run by hand on all golden stores of 1.3; no test may depend on node being there."""
    [program] = blocks("js")
    assert len(program.splitlines()) == 10
    assert hashlib.sha256(program.encode()).hexdigest() == (
        "d7ed6628e94aeb64efb1912d2a1ab86d8e70cee3d10a2d40d0b1855ce738c72d"
    )


def test_the_byte_map_is_that_of_the_shard() -> None:
    shard = STORES["several-row-groups-1.3"].manifest.shards[0]
    content = (GOLDEN / "several-row-groups-1.3" / "store" / shard.path).read_bytes()
    size, length = len(content), int.from_bytes(content[-8:-4], "little")
    starts = [group.offset for group in shard.row_groups]
    bounds = [0, 4, *starts[1:], size - 8 - length, size - 8, size - 4, size]
    section = PAGE.partition("### The bytes of a shard")[2].partition("\n### ")[0]
    found = re.findall(r"^\| (\d+) to (\d+) \|", section, flags=re.MULTILINE)
    assert found == [(str(a), str(b)) for a, b in pairwise(bounds)]
    assert content[:4] == content[-4:] == b"PAR1"
    for group in shard.row_groups:
        assert f"`offset` {group.offset}, `num_bytes` {group.num_bytes}" in section
    assert f"`{content[-8:-4].hex(' ')}`" in section
    assert f"`footer_bytes` {shard.footer_bytes}, `num_bytes` {size}" in section
    assert shard.footer_bytes == length + 8


def test_the_worked_position_is_that_of_the_store() -> None:
    store = STORES["grid-of-fractions-1.3"]
    shard = store.manifest.shards[0]
    row = pq.read_table(GOLDEN / "grid-of-fractions-1.3" / "store" / shard.path).to_pylist()[0]
    section = PAGE.partition("## One position")[2].partition("\n## ")[0]
    for column in ("id_plane_0", "id_plane_1", "steps"):
        assert f"| `{column}` | `{row[column][0].hex(' ')}` |" in section
    assert f"| `escapes` | {', '.join(map(str, row['escapes']))} |" in section
    assert f"| `top_logit` | {row['top_logit'][0]:.10g} |" in section
    assert f"| `tail_mass_t1_5` | {row['tail_mass_t1_5'][0]:.9g} |" in section
    targets = next(iter(store)).targets
    logprobs, logits = targets.logprobs_TK(1.5)[0], targets.logits_TK[0]
    rows = re.findall(r"^\| (\d) \| (.*) \|$", section, flags=re.MULTILINE)
    assert len(rows) == 5
    total = 0
    for rank, cells in rows:
        token, difference, distance, *numbers = cells.split(" | ")
        assert int(token) == targets.ids_TK[0, int(rank)]
        total += int(difference)
        assert int(distance) == total
        z, logprob = logits[int(rank)], logprobs[int(rank)]
        np.testing.assert_allclose(
            [float(one) for one in numbers], [z, z / 1.5, logprob, np.exp(logprob)], atol=1e-6
        )
    [found] = re.findall(r"The probabilities sum to\s([\d.]+),", section)
    assert float(found) == pytest.approx(1 - row["tail_mass_t1_5"][0], abs=1e-6)


def test_the_names_of_temperatures_are_those_of_columns() -> None:
    temperatures, names = re.findall(
        r"^\| (?:temperature|`tail_mass_`) \| (.*) \|$", PAGE, flags=re.MULTILINE
    )
    for temperature, name in zip(temperatures.split(" | "), names.split(" | "), strict=True):
        assert name == f"`t{temperature_text(float(temperature))}`"


def test_the_formula_of_the_output_head_gives_the_stored_logits() -> None:
    """All in float64, from `head.parquet` and the feature alone."""
    store = STORES["exact-output-head-1.3"]
    described = json.loads((GOLDEN / "exact-output-head-1.3/store/manifest.json").read_text())
    head = described["identity"]["targets"]["output_head"]
    table = pq.read_table(GOLDEN / "exact-output-head-1.3/store/head.parquet").to_pydict()
    weight_VD = np.array([np.frombuffer(row, "<f4") for row in table["weight"]], float)
    for window in store:
        hidden_TD = window.targets.features["last_hidden"].astype(float)
        logits_TV = (hidden_TD @ weight_VD.T + np.array(table["bias"])) * head["scale"]
        logits_TV = head["softcap"] * np.tanh(logits_TV / head["divisor"] / head["softcap"])
        found_TK = np.take_along_axis(logits_TV, window.targets.ids_TK, axis=1)
        np.testing.assert_allclose(found_TK, window.targets.logits_TK, atol=2e-5)
        top_T = logits_TV.argmax(axis=1)
        np.testing.assert_array_equal(top_T, window.targets.ids_TK[:, 0])
        tail_T = 1 - np.exp(found_TK).sum(axis=1) / np.exp(logits_TV).sum(axis=1)
        np.testing.assert_allclose(tail_T, window.targets.tail_mass_TG[:, 0], atol=1e-5)


def test_the_formula_of_the_transform_gives_the_stored_logits() -> None:
    """All in float64, from `head.parquet` and the hidden states of all tokens."""
    root = GOLDEN / "head-of-bert-1.4" / "store"
    targets = json.loads((root / "manifest.json").read_text())["identity"]["targets"]
    transform, num_ids = targets["output_head"]["transform"], targets["vocab_size"]
    assert transform["activation"] == "gelu"
    table = pq.read_table(root / "head.parquet").to_pydict()
    weight_RD = np.array([np.frombuffer(row, "<f4") for row in table["weight"]], float)
    bias_R = np.array(table["bias"])
    weight_VD, dense_DD, norm_scale_D, norm_shift_D = (
        weight_RD[:num_ids], weight_RD[num_ids:-2], weight_RD[-2], weight_RD[-1]
    )  # fmt: skip
    assert (bias_R[-2:] == 0).all()
    for window in STORES["head-of-bert-1.4"]:
        hidden_LD = window.targets.features["last_hidden"].astype(float)
        dense_TD = hidden_LD[window.positions_T] @ dense_DD.T + bias_R[num_ids:-2]
        a_TD = dense_TD / 2 * (1 + np.vectorize(math.erf)(dense_TD / math.sqrt(2)))
        norm_T1 = np.sqrt(a_TD.var(axis=1, keepdims=True) + transform["epsilon"])
        h_TD = (a_TD - a_TD.mean(axis=1, keepdims=True)) / norm_T1 * norm_scale_D + norm_shift_D
        logits_TV = h_TD @ weight_VD.T + bias_R[:num_ids]
        found_TK = np.take_along_axis(logits_TV, window.targets.ids_TK, axis=1)
        np.testing.assert_allclose(found_TK, window.targets.logits_TK, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", STORES)
def test_columns_have_the_physical_types_of_the_page_and_are_required(name: str) -> None:
    store = STORES[name]
    physical = {"BYTE_ARRAY", "INT32", "INT64", "FLOAT", "BOOLEAN", "FIXED_LEN_BYTE_ARRAY"}
    for shard in store.manifest.shards:
        schema = pq.ParquetFile(Path(store.root, shard.path)).schema
        for index in range(len(schema)):
            leaf = schema.column(index)
            assert leaf.physical_type in physical, leaf.path
            assert (leaf.logical_type.type == "STRING") == (leaf.physical_type == "BYTE_ARRAY")
            # A repeated group counts as one level; whatever may be null would be another.
            assert leaf.max_definition_level == leaf.max_repetition_level <= 1, leaf.path
            assert leaf.path in (leaf.name, f"{leaf.path.split('.')[0]}.list.element")
