"""Exports, read back by the columns' documented meaning and compared with the live teacher."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml

from softtargets.capture import Corpus, Hybrid, Sampled, Windowing
from softtargets.errors import InputError, StoreError, TemperatureError
from softtargets.store import Store, export_axolotl, export_distillkit
from softtargets.window import Window
from tests.commands import run
from tests.fakes import FakeTeacher, build_store
from tests.golden import make_store, write_store
from tests.layouts.readers import (
    Row,
    Target,
    axolotl_targets,
    compression_config,
    distillkit_targets,
    rows_of,
)
from tests.windows import KINDS, make_window

STEP_ERROR = 1 / 16
"""Nats: kept logits are within 1/32, and so are the top ones that they count from."""


def live_logprobs(row: Row, length: int, temperature: float) -> np.ndarray:
    """Return the fake teacher's own log-probabilities [L, V] of a row read by itself."""
    teacher = FakeTeacher()
    hidden = teacher.hidden_states(torch.tensor([row["input_ids"][:length]]))
    logits = teacher.logits(hidden[0]).double() / temperature
    found: np.ndarray = logits.log_softmax(dim=1).numpy()
    return found


def largest_difference(
    row: Row, targets: list[Target], *, temperature: float, renormalised: bool, shift: int = 0
) -> float:
    """Return how far a row's log-probabilities are from the live teacher's, in nats."""
    live_LV = live_logprobs(row, sum(row["attention_mask"]), temperature)
    worst = 0.0
    for target in targets:
        ids, values = list(target.logprobs), np.array(list(target.logprobs.values()))
        own = live_LV[(target.position + shift) % len(live_LV), ids]
        if renormalised:
            own = own - np.log(np.exp(own).sum())
        worst = max(worst, float(np.abs(values - own).max()))
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("values", ["renormalised", "full"])
def test_axolotl_rows_are_the_live_teachers(
    store: Store, tmp_path: Path, values: Any, temperature: float
) -> None:
    directory = export_axolotl(store.root, tmp_path / "out", values=values, temperature=temperature)
    rows = rows_of(directory)
    assert [row["input_ids"] for row in rows] == [one.input_ids_L.tolist() for one in store]
    how: dict[str, Any] = {"temperature": temperature, "renormalised": values == "renormalised"}
    for row in rows:
        targets = list(axolotl_targets(row))
        assert all(target.is_trained for target in targets)
        assert all(len(target.logprobs) == 8 for target in targets)
        assert largest_difference(row, targets, **how) < STEP_ERROR
        # The negative control: rows that are about another token.
        for shift in (1, -1):
            assert largest_difference(row, targets, shift=shift, **how) > 1
    config = json.loads((directory / "softtargets.json").read_text())["config"]
    assert config["kd_temperature"] == temperature
    assert config["kd_normalize_topk"] == (values == "renormalised")
    assert config["kd_prepared_targets_alignment"] == "current"


@pytest.mark.slow
@pytest.mark.parametrize("value_format", ["float32", "float16"])
def test_distillkit_rows_are_the_live_teachers(
    store: Store, tmp_path: Path, value_format: Any
) -> None:
    directory = export_distillkit(store.root, tmp_path / "out", value_format=value_format)
    config = compression_config(directory)
    assert (config["d"], config["k"], config["exact_dtype"]) == (300, 8, value_format)
    num_positions = 0
    for row, window in zip(rows_of(directory), store, strict=True):
        length = sum(row["attention_mask"])
        assert row["input_ids"][:length] == window.input_ids_L.tolist()
        targets = list(distillkit_targets(row, config))
        trained = [target for target in targets if target.is_trained]
        assert [target.position for target in trained] == list(range(length - 1))
        how: dict[str, Any] = {"temperature": 1.0, "renormalised": False}
        assert largest_difference(row, trained, **how) < STEP_ERROR
        for shift in (1, -1):
            assert largest_difference(row, trained, shift=shift, **how) > 1
        num_positions += len(trained)
    assert num_positions == store.num_positions


@pytest.mark.slow
def test_distillkits_own_loader_and_collator_take_the_rows(store: Store, tmp_path: Path) -> None:
    """Its `collate_packed_batch` makes a tensor of every column, `_load_dataset` drops unlike rows.

    From distillkit/main.py: rows at the end that are not as long as the first are dropped.
    """
    directory = export_distillkit(store.root, tmp_path / "out")
    datasets.disable_progress_bars()
    rows = datasets.load_dataset(str(directory), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == len(store)
    assert {len(row["input_ids"]) for row in rows} == {max(map(len, store))}
    for name in rows.column_names:
        stacked = torch.tensor([row[name] for row in rows])
        assert stacked.shape[:2] == (len(store), max(map(len, store)))
    told = yaml.safe_load(
        (directory / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    )
    assert told["teacher"]["logprob_compressor"] == compression_config(directory)
    assert told["dataset"]["prepacked"] is True


def packed_store(directory: Path) -> Store:
    return build_store(directory, windowing=Windowing(sequence_length=200, kind="pack"))


Export = Callable[[Path, Path], Path]


def axolotl_rows(directory: Path) -> Iterator[tuple[Row, list[Target]]]:
    for row in rows_of(directory):
        yield row, list(axolotl_targets(row))


def distillkit_rows(directory: Path) -> Iterator[tuple[Row, list[Target]]]:
    config = compression_config(directory)
    for row in rows_of(directory):
        targets = [one for one in distillkit_targets(row, config) if one.logprobs]
        yield row, targets


TRAINERS = [
    pytest.param(export_axolotl, axolotl_rows, True, id="axolotl"),
    pytest.param(export_distillkit, distillkit_rows, False, id="distillkit"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("export", "read", "renormalised"), TRAINERS)
def test_documents_that_share_a_window_become_rows(
    tmp_path: Path, export: Export, read: Any, renormalised: bool
) -> None:
    """In each row the teacher, reading it alone, says what is stored; no row mixes documents."""
    store = packed_store(tmp_path)
    assert any(len(window.segment_lengths_S) > 1 for window in store)
    found = list(read(export(store.root, tmp_path / "out")))
    lengths = [int(length) for window in store for length in window.segment_lengths_S]
    assert [sum(row["attention_mask"]) for row, _ in found] == lengths
    for row, targets in found:
        assert [one.position for one in targets] == list(range(sum(row["attention_mask"]) - 1))
        assert (
            largest_difference(row, targets, temperature=1.0, renormalised=renormalised)
            < STEP_ERROR
        )


def masked(windows: list[Window]) -> list[tuple[list[int], list[bool]]]:
    """Return tokens and mask of every document of windows, a target for each token but the last."""
    found = []
    for window in windows:
        mask = np.zeros(len(window) - 1, np.bool_)
        mask[window.target_positions_T] = window.mask_T
        ends = [0, *np.cumsum(window.segment_lengths_S).tolist()]
        for start, stop in pairwise(ends):
            if stop - start > 1:
                found.append((window.input_ids_L[start:stop].tolist(), mask[start : stop - 1]))
    return [(tokens, own.tolist()) for tokens, own in found]


@pytest.mark.slow
@pytest.mark.parametrize(("export", "read", "renormalised"), TRAINERS)
@pytest.mark.parametrize("kind", ["topk", "topk-lossless", "assistant-tokens"])
def test_masks_and_gaps_keep_their_places(
    tmp_path: Path, kind: str, export: Export, read: Any, renormalised: bool
) -> None:
    store = make_store(tmp_path / "store", kind)
    found = list(read(export(store.root, tmp_path / "out")))
    expected = masked(list(store))
    for (row, targets), (tokens, mask) in zip(found, expected, strict=True):
        assert row["input_ids"][: sum(row["attention_mask"])] == tokens
        trained = {target.position for target in targets if target.is_trained}
        assert trained == set(np.flatnonzero(mask).tolist())


@pytest.mark.slow
@pytest.mark.parametrize(("export", "read", "renormalised"), TRAINERS)
def test_fewer_entries_are_the_first(
    store: Store, tmp_path: Path, export: Any, read: Any, renormalised: bool
) -> None:
    directory = export(store.root, tmp_path / "out", top_k=3)
    for (_, targets), window in zip(read(directory), store, strict=True):
        for target, ids_K in zip(targets, window.targets.ids_TK.tolist(), strict=True):
            assert list(target.logprobs) == ids_K[:3]
            total = sum(np.exp(list(target.logprobs.values())))
            assert total == pytest.approx(1, abs=1e-6) if renormalised else total < 1
    assert "Entries after the first 3 of 8." in (directory / "README.md").read_text()
    with pytest.raises(InputError, match="1 to 8 entries"):
        export(store.root, tmp_path / "other", top_k=9)


@pytest.mark.slow
@pytest.mark.parametrize("export", [export_axolotl, export_distillkit])
def test_draws_are_not_dropped_in_silence(tmp_path: Path, export: Any) -> None:
    hybrid = build_store(tmp_path, selection=Hybrid(k=8))
    with pytest.raises(InputError, match="targets without draws"):
        export(hybrid.root, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    directory = export(hybrid.root, tmp_path / "head", without_draws=True)
    assert "The draws: what is left is a biased" in (directory / "README.md").read_text()
    (tmp_path / "sampled").mkdir()
    sampled = build_store(tmp_path / "sampled", selection=Sampled())
    with pytest.raises(InputError, match="a head of exact entries"):
        export(sampled.root, tmp_path / "refused", without_draws=True)


def test_what_a_layout_cannot_hold_is_refused(tmp_path: Path, store: Store) -> None:
    for kind in ("classes-of-tokens", "masked-tokens", "translation", "features-alone"):
        other = make_store(tmp_path / kind, kind)
        with pytest.raises(InputError, match="a decoder's next token with a head"):
            export_axolotl(other.root, tmp_path / "refused")
    with pytest.raises(TemperatureError, match="temperature 3"):
        export_axolotl(store.root, tmp_path / "refused", temperature=3)
    tailless = make_store(tmp_path / "tailless", "topk-without-tail")
    with pytest.raises(TemperatureError):
        export_distillkit(tailless.root, tmp_path / "refused")
    with pytest.raises(TemperatureError):
        export_axolotl(tailless.root, tmp_path / "refused", values="full")
    assert not (tmp_path / "refused").exists()
    rows = rows_of(export_axolotl(tailless.root, tmp_path / "out", temperature=3))
    for target in axolotl_targets(rows[0]):
        assert sum(np.exp(list(target.logprobs.values()))) == pytest.approx(1, abs=1e-6)
    with pytest.raises(StoreError, match="an empty directory, or nothing yet"):
        export_axolotl(store.root, tmp_path / "out")


def test_a_logit_as_low_as_what_stands_for_none_is_refused(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    window, _ = make_window(rng, KINDS["topk"], scale=40_000)
    store = write_store(tmp_path / "store", KINDS["topk"], [[window]])
    with pytest.raises(InputError, match="numbers above -8192"):
        export_distillkit(store.root, tmp_path / "out")


def test_ids_of_18_bits_are_packed(rng: np.random.Generator, tmp_path: Path) -> None:
    schema = KINDS["topk-of-262144"]
    window, _ = make_window(rng, schema, num_tokens=3)
    store = write_store(tmp_path / "store", schema, [[window]])
    directory = export_distillkit(store.root, tmp_path / "out")
    found = [
        list(target.logprobs) for _, targets in distillkit_rows(directory) for target in targets
    ]
    ends = np.cumsum(window.segment_lengths_S)
    inside = [t for t in range(2) if t + 1 not in ends]
    assert found == window.targets.ids_TK[inside].tolist()


def test_documents_of_one_token_are_left_out(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    texts = ["a", "Alice was beginning", "b", "to get very tired"]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    windowing = Windowing(sequence_length=64, kind="pack")
    store = build_store(tmp_path, corpus=Corpus(paths=(corpus,)), windowing=windowing)
    rows = rows_of(export_axolotl(store.root, tmp_path / "out"))
    assert len(rows) == sum(int((one.segment_lengths_S > 1).sum()) for one in store)


def test_the_export_command(store: Store, tmp_path: Path) -> None:
    made = run(
        "export", store.root, tmp_path / "a", "--to", "axolotl", "--temperature", "2",
        "--log-probabilities", "full", "--top-k", "4",
    )  # fmt: skip
    assert f"axolotl layout, {len(store)} windows" in made.output
    about = json.loads((tmp_path / "a" / "softtargets.json").read_text())
    assert about["fingerprint"] == store.fingerprint
    assert (about["values"], about["temperature"]) == ("full", 2.0)
    assert "The tail mass at 1." in about["lost"]
    run("export", store.root, tmp_path / "d", "--to", "distillkit", "--value-format", "float16")
    assert compression_config(tmp_path / "d")["exact_dtype"] == "float16"
    for layout, option in (("plain", "--temperature"), ("distillkit", "--temperature")):
        refused = run("export", store.root, tmp_path / "no", "--to", layout, option, "2")
        assert refused.exit_code == 1
        assert f"--to {layout}: expected options of this layout; found --temp" in refused.stderr
