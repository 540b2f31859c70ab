"""What the commands say of input that they cannot use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from softtargets.engines import on_ray
from tests.commands import run
from tests.fakes import shard_bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--select", "topk", "--draws", "3"], "--draws: expected --select sampled or hybrid or"),
        (["--select", "sampled"], "--top-k: expected --select topk or topp or hybrid with it"),
        (["--select", "topp", "--seed", "1"], "--seed: expected --select sampled or hybrid"),
        (["--select", "hybrid", "--top-p", "0.5"], "--top-p: expected --select topp with it"),
        (["--select", "topp", "--draw-design", "independent"], "--draw-design: expected --select"),
        (["--pin", "end"], "--pin: expected label, eos or the number of an id; found end"),
        (["--pin", "eos"], "--pin eos: expected a tokenizer with a token for the end of a text"),
        (["--pin", "99999"], "--pin: expected ids below the teacher's vocabulary"),
        (["--select", "hybrid", "--select-temperature", "3"], "expected one of the grid: 1, 2;"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(
    tmp_path: Path, build_arguments: list[str | Path], options: list[str], message: str
) -> None:
    result = run(*build_arguments, *options)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray-address", "auto"], "--ray-address: expected --engine ray with it; found --engine"),
        (["--gpus-per-worker", "1"], "--gpus-per-worker: expected --engine ray with it"),
        (["--engine", "ray"], "--engine ray: expected the package ray; found none. Install it on"),
    ],
)
def test_engines_that_make_no_sense_are_refused(
    tmp_path: Path,
    build_arguments: list[str | Path],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(on_ray, "find_spec", lambda _: None)
    result = run(*build_arguments, *options)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "store").exists()


Change = Callable[[Path, list[str | Path]], list[str | Path]]


def replace(option: str, *values: str) -> Change:
    def change(directory: Path, arguments: list[str | Path]) -> list[str | Path]:
        at = arguments.index(option)
        own = [value.format(dir=directory) for value in values]
        return [*arguments[: at + 1], *own, *arguments[at + 2 :]]

    return change


def write(name: str, content: bytes) -> Change:
    def change(directory: Path, arguments: list[str | Path]) -> list[str | Path]:
        (directory / name).write_bytes(content)
        return replace("--input", f"{{dir}}/{name}")(directory, arguments)

    return change


def foreign_output(directory: Path, arguments: list[str | Path]) -> list[str | Path]:
    (directory / "mine").mkdir()
    (directory / "mine" / "notes.md").write_text("mine")
    return replace("--output", "{dir}/mine")(directory, arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            replace("--input", "{dir}/nowhere.txt"),
            "nowhere.txt: cannot be read: No such file or directory. Check the path",
        ),
        (write("bad.jsonl", b'{"text": "fine"}\n{"text"\n'), "bad.jsonl, line 2: expected a JSON"),
        (write("empty.txt", b""), "expected at least one document of two tokens"),
        (write("data.csv", b"a,b"), "found '.csv'"),
        (replace("--top-k", "401"), "the teacher's vocabulary size, 400; found 401"),
        (replace("--top-k", "0"), "found 0"),
        (replace("--sequence-length", "1"), "--sequence-length: expected at least 2"),
        (replace("--temperature", "-1"), "--temperature: expected one or more positive"),
        (replace("--teacher", "{dir}"), "a model directory of transformers, with a config.json"),
        (
            replace("--teacher", "no/such-model"),
            "an id on the Hugging Face Hub that can be reached",
        ),
        (
            replace("--teacher", "./nopeteacher"),
            "--teacher ./nopeteacher: expected a model directory; found no such directory.",
        ),
        (replace("--teacher", "a/b/c"), "expected a model directory; found no such directory."),
        (replace("--teacher", "{dir}/corpus.jsonl"), "expected a model directory; found a file."),
        (replace("--unit-tokens", "100", "--device", "tpu9"), "--device"),
        (replace("--unit-tokens", "100", "--attention", "magic"), "with magic attention"),
        (foreign_output, "among them 'notes.md'"),
    ],
)
def test_bad_input_gets_one_clear_paragraph(
    tmp_path: Path, build_arguments: list[str | Path], change: Change, message: str
) -> None:
    result = run(*change(tmp_path, build_arguments))
    assert result.exit_code == 1
    text = result.stderr
    assert text.startswith("Error: ")
    assert message in text
    assert "Traceback" not in result.output
    assert len(text.strip().splitlines()) == 1
    # A plan is kept: the same command goes on from it.
    output = tmp_path / "store"
    assert (output / "work" / "plan.json").is_file() or not output.exists()


@pytest.mark.slow
def test_another_fingerprint_is_refused_and_the_store_stays(
    tmp_path: Path, build_arguments: list[str | Path]
) -> None:
    run(*build_arguments)
    before = shard_bytes(tmp_path / "store")
    result = run(*replace("--dtype", "bfloat16")(tmp_path, build_arguments))
    assert result.exit_code == 1
    assert "field teacher.dtype: expected 'float32'; found 'bfloat16'" in result.stderr
    assert shard_bytes(tmp_path / "store") == before
    assert run("verify", tmp_path / "store").exit_code == 0


@pytest.mark.parametrize("command", ["info", "verify"])
def test_reading_commands_explain_what_is_no_store(tmp_path: Path, command: str) -> None:
    result = run(command, tmp_path)
    assert result.exit_code == 1
    assert "make a store with 'softtargets build'" in result.stderr
    (tmp_path / "manifest.json").write_text('{"format_version": "2.1"}')
    assert "pip install --upgrade softtargets" in run(command, tmp_path).stderr
