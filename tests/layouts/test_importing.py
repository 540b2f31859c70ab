"""How an import goes: on after an interruption, and by its command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from softtargets import SoftTargetDataset
from softtargets.layouts.axolotl import Axolotl
from softtargets.store import Store, import_lists
from softtargets.store.writer import StoreWriter
from tests.commands import run
from tests.fakes import byte_tokenizer, shard_bytes
from tests.layouts.readers import FULL, listed, write_rows


@pytest.mark.slow
def test_an_interrupted_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softtargets.layouts.listed_import.UNIT_TOKENS", 40)
    path = write_rows(tmp_path / "rows.parquet", listed(100))
    whole = import_lists([path], tmp_path / "whole", Axolotl(), FULL)
    assert len(whole.manifest.shards) == 10
    real = StoreWriter.write_unit
    written: list[int] = []
    is_first = True

    def write_unit(self: StoreWriter, unit: int, *rest: Any) -> Any:
        if unit == 3 and is_first:
            raise KeyboardInterrupt
        written.append(unit)
        return real(self, unit, *rest)

    monkeypatch.setattr(StoreWriter, "write_unit", write_unit)
    with pytest.raises(KeyboardInterrupt):
        import_lists([path], tmp_path / "store", Axolotl(), FULL)
    is_first = False
    store = import_lists([path], tmp_path / "store", Axolotl(), FULL)
    assert written == list(range(10))
    assert shard_bytes(store.root) == shard_bytes(whole.root)
    assert store.manifest.corpus == whole.manifest.corpus
    again = shard_bytes(import_lists([path], tmp_path / "store", Axolotl(), FULL).root)
    assert again == shard_bytes(whole.root)


@pytest.mark.slow
def test_the_import_command(store: Store, tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    run("export", store.root, tmp_path / "a", "--to", "axolotl", "--log-probabilities", "full")
    stating = ["--values-are", "full", "--temperature", "1", "--vocab-size", "300"]
    made = run(
        "import", tmp_path / "a", "--from", "axolotl", "--output", tmp_path / "back", *stating,
        "--tokenizer", tmp_path / "tokenizer", "--teacher", "fake", "--license", "mit",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert f"{len(store)} windows" in made.output
    back = Store.open(tmp_path / "back")
    assert back.vocabulary is not None
    assert len(back.vocabulary) == 256
    SoftTargetDataset(back, tokenizer=byte_tokenizer())
    assert json.loads(run("info", back.root, "--json").output)["teacher"] == "fake"
    for arguments, message in (
        (["--from", "axolotl", "--values-are", "full"], "needs --vocab-size"),
        (["--from", "axolotl", "--vocab-size", "3"], "needs --values-are"),
        (["--from", "plain", *stating], "found --values-are, --temperature, --vocab-size"),
        (["--from", "token-logits", "--alignment", "legacy", *stating], "found --alignment"),
        (["--from", "axolotl", "--compression-config", "x", *stating], "found --compression"),
    ):
        refused = run("import", tmp_path / "a", "--output", tmp_path / "no", *arguments)
        assert refused.exit_code != 0
        assert message in refused.stderr
    plain = run("export", store.root, tmp_path / "p", "--to", "plain")
    assert plain.exit_code == 0
    made = run("import", tmp_path / "p", "--from", "plain", "--output", tmp_path / "same")
    assert f"{store.num_positions} targets" in made.output
    assert "import of" in run("info", tmp_path / "same").output
