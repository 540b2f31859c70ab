from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from softtargets.cli import main
from softtargets.report.number_texts import percent_text
from softtargets.store import Store
from tests.golden import make_store
from tests.report.hostile import SOURCE, hostile_store
from tests.windows import KINDS


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_inspect_says_what_the_store_says(store: Store) -> None:
    window = list(store)[1]
    arguments = ("inspect", store.root, "--window", window.window_id[:14], "--temperature", "2")
    data = json.loads(run(*arguments, "--json").output)
    assert data["window_id"] == window.window_id
    assert "candidates" not in data["tokens"][0]
    for position, token in enumerate(data["tokens"][1:], 1):
        target = position - 1
        assert token["token_id"] == token["label"]["token_id"] == window.input_ids_L[position]
        shares = [one["probability"] for one in token["candidates"]]
        np.testing.assert_allclose(
            shares, np.exp(window.targets.logprobs_TK(2.0)[target]), rtol=1e-6
        )
        assert token["tail_mass"] == window.targets.tail_mass_TG[target, 1]
        assert window.targets.label_rank_T is not None
        assert token["label"]["rank"] == window.targets.label_rank_T[target]
    top = data["tokens"][3]["candidates"][0]
    shown = f"{top['token']} {percent_text(top['probability'])}"
    lines = run(*arguments).output.splitlines()
    assert any(line.split()[:1] == ["3"] and shown in line for line in lines)
    assert shown.split()[1] in run(*arguments, "--position", "3").output


def test_a_window_is_found_by_its_id_or_not(store: Store) -> None:
    ids = store.window_ids()
    assert run("inspect", store.root, "--list").output.split() == ids
    assert f"window {ids[0]}" in run("inspect", store.root).output
    for wrong, found in (("zz", "no window with it"), ("", f"found {min(ids)}, ")):
        result = run("inspect", store.root, "--window", wrong)
        assert result.exit_code == 1
        assert found in result.output
        assert "softtargets inspect STORE --list" in result.output
    result = run("inspect", store.root, "--position", "99")
    assert result.exit_code == 1
    assert "0 to 15" in result.output
    result = run("inspect", store.root, "--temperature", "3")
    assert result.exit_code == 1
    assert "one of the temperatures stored: 1, 2" in result.output


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_is_shown(tmp_path: Path, kind: str) -> None:
    root = make_store(tmp_path / "store", kind).root
    whole = run("inspect", root)
    assert whole.exit_code == 0
    assert "None" not in whole.output
    assert "nan" not in whole.output
    last = len(json.loads(run("inspect", root, "--json").output)["tokens"]) - 1
    assert run("inspect", root, "--position", str(last)).exit_code == 0


@pytest.mark.slow
def test_a_pipe_gets_plain_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    store = hostile_store(tmp_path / "store")
    for command in ("inspect", "info"):
        arguments = (command, store.root, *(("--detail",) if command == "info" else ()))
        output = run(*arguments).output
        assert "\x1b" not in output
        assert "\u202e" not in output
        assert output.count("[red]") == (2 if command == "info" else 1)
    output = run("inspect", store.root).output
    assert SOURCE.replace("\u202e", "\\u202e") in output
    assert "[bold]markup[/bold]" in output
    assert max(cell_len(line) for line in output.splitlines()) <= 120


def test_info_with_detail(store: Store) -> None:
    data = json.loads(run("info", store.root, "--json", "--detail").output)
    assert sum(data["column_bytes"].values()) == store.num_bytes
    assert data["source_windows"] == {"corpus.jsonl": len(store)}
    shown = run("info", store.root, "--detail").output
    assert "ids of the kept logits, low byte" in shown
    assert "column_bytes" not in json.loads(run("info", store.root, "--json").output)
