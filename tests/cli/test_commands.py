from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from softtargets.capture.tally import Tally
from softtargets.cli import main
from softtargets.engines import on_ray
from softtargets.store import Store
from softtargets.store.shard_table import ShardEntry
from tests.commands import run
from tests.fakes import TEXTS, build_store, shard_bytes, write_corpus
from tests.processes import CONTEXT, run_into


@pytest.fixture
def build_arguments(tmp_path: Path, tiny_teacher: Path) -> list[str | Path]:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    return [
        "build", "--teacher", tiny_teacher, "--input", corpus, "--output", tmp_path / "store",
        "--top-k", "8", "--temperature", "1", "--temperature", "2", "--sequence-length", "32",
        "--dtype", "float32", "--unit-tokens", "100",
    ]  # fmt: skip


def test_every_command_and_every_option_has_help() -> None:
    for name, command in main.commands.items():
        result = run(name, "--help")
        assert result.exit_code == 0
        assert command.help
        for parameter in command.get_params(click.Context(command)):
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"
    assert set(main.commands) == {
        "augment", "build", "card", "clean", "commit", "demo", "export", "fidelity", "filter",
        "generate", "import", "info", "inspect", "merge", "plan", "pull", "push", "report", "split",
        "train", "verify",
    }  # fmt: skip
    assert run("--version").output.startswith("softtargets, version ")


@pytest.mark.slow
def test_build_verify_info(tmp_path: Path, build_arguments: list[str | Path]) -> None:
    first = run(*build_arguments)
    assert first.exit_code == 0
    assert "bytes a target" in first.output
    store = Store.open(tmp_path / "store")
    before = shard_bytes(store.root)

    again = run(*build_arguments)
    assert again.exit_code == 0
    assert "complete already: nothing to do" in again.output
    assert shard_bytes(store.root) == before

    verified = run("verify", store.root)
    assert verified.exit_code == 0
    assert f"{len(store)} windows and {store.num_positions} targets checked" in verified.output

    fast = run("verify", store.root, "--fast")
    assert fast.exit_code == 0
    assert "sizes and footers hold; nothing else was read" in fast.output

    shown = run("info", store.root).output
    assert "LlamaForCausalLM, float32, sdpa attention" in shown
    data = json.loads(run("info", store.root, "--json").output)
    assert data["fingerprint"] == store.fingerprint
    assert data["num_positions"] == store.num_positions
    assert data["identity"]["targets"]["temperatures"] == [1.0, 2.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--select", "topp", "--top-p", "0.5"], {"kind": "topp", "k": 8, "p": 0.5}),
        (["--select", "hybrid", "--draws", "3", "--seed", "5"], {"kind": "hybrid", "k": 8}),
        (["--draws", "3"], {"kind": "hybrid", "k": 8}),
        (["--pin", "label", "--pin", "7"], {"kind": "topk", "pins": {"ids": [7], "label": True}}),
    ],
)
def test_a_selection_is_built(
    tmp_path: Path,
    build_arguments: list[str | Path],
    options: list[str],
    expected: dict[str, object],
) -> None:
    assert run(*build_arguments, *options).exit_code == 0
    store = Store.open(tmp_path / "store")
    assert expected.items() <= store.manifest.identity["selection"].items()
    assert run("verify", store.root).exit_code == 0
    assert "top" in run("info", store.root).output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"num": 17, "temperature": 1, "seed": 0, "design": "systematic"}),
        (
            ["--draws", "9", "--seed", "4", "--temperature", "2"],
            {"num": 9, "temperature": 2, "seed": 4, "design": "systematic"},
        ),
    ],
)
def test_threshold_draws_are_built(
    tmp_path: Path, tiny_teacher: Path, options: list[str], expected: dict[str, object]
) -> None:
    (tmp_path / "text.txt").write_text("Twas brillig, and the slithy toves did gyre and gimble.")
    asked: list[str | Path] = [
        "--teacher",
        tiny_teacher,
        "--input",
        tmp_path / "text.txt",
        "--select",
        "threshold",
    ]
    result = run("build", *asked, "--output", tmp_path / "store", *options)
    assert result.exit_code == 0, result.output
    store = Store.open(tmp_path / "store")
    assert store.manifest.identity["selection"] == {"kind": "threshold", "draws": expected}
    result = run("verify", store.root, "--rescore", "2", "--teacher", tiny_teacher)
    assert result.exit_code == 0, result.output
    assert f"threshold draws at 1/{expected['num']}" in run("info", store.root).output
    assert run("plan", *asked, *options).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "drawn_at"), [([], 1), (["--temperature", "2", "--temperature", "3"], 2)]
)
def test_the_default_is_a_head_and_draws(
    tmp_path: Path, tiny_teacher: Path, options: list[str], drawn_at: float
) -> None:
    (tmp_path / "text.txt").write_text("Twas brillig, and the slithy toves did gyre and gimble.")
    result = run(
        "build", "--teacher", tiny_teacher, "--input", tmp_path / "text.txt", "--output",
        tmp_path / "store", *options,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    selection = Store.open(tmp_path / "store").manifest.identity["selection"]
    draws = {"num": 16, "temperature": drawn_at, "seed": 0, "design": "systematic"}
    assert selection == {"kind": "hybrid", "k": 16, "draws": draws}


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


def test_several_files_may_follow_one_option(
    tmp_path: Path, build_arguments: list[str | Path]
) -> None:
    paths = [write_corpus(tmp_path / f"{name}.jsonl", [f"{name} {TEXTS[0]}"]) for name in "abc"]
    at = build_arguments.index("--input")
    run(*build_arguments[: at + 1], *paths[:2], *build_arguments[at + 2 :], "--input", paths[2])
    files = Store.open(tmp_path / "store").manifest.identity["corpus"]["files"]
    assert sorted(file["name"] for file in files) == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_verify_of_a_damaged_store_fails_and_names_the_file(store: Store) -> None:
    path = store.root / store.manifest.shards[1].path
    path.write_bytes(path.read_bytes()[:-1])
    result = run("verify", store.root)
    assert result.exit_code == 1
    assert "is damaged: 1 problem in 4 shards" in result.output
    assert "unit-000001" in result.output


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


def stop_after_three(arguments: list[str]) -> None:
    """Run a command which waits for Ctrl-C once three units are done."""
    # A shell has what it starts in the background ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    shards: list[ShardEntry] = []
    write = Tally.finish

    def write_and_wait(tally: Tally, entry: ShardEntry) -> None:
        write(tally, entry)
        shards.append(entry)
        if len(shards) == 3:
            click.echo("three are done")
            threading.Event().wait()

    Tally.finish = write_and_wait  # type: ignore[assignment,method-assign]
    main(arguments)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    tmp_path: Path, build_arguments: list[str | Path]
) -> None:
    log, arguments = tmp_path / "log", [str(one) for one in build_arguments]
    log.touch()
    process = CONTEXT.Process(
        target=run_into, args=(log, dict(os.environ), stop_after_three, arguments)
    )
    process.start()
    while "three are done\n" not in log.read_text():
        assert process.is_alive(), log.read_text()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join()
    output = log.read_text()
    assert process.exitcode == 130, output
    assert "run the same command to continue" in output
    assert "Traceback" not in output
    assert len(list((tmp_path / "store" / "work" / "records").glob("*.json"))) >= 3
    assert not (tmp_path / "store" / "manifest.json").exists()
    assert run("info", tmp_path / "store").exit_code == 1
    assert run(*build_arguments).exit_code == 0
    assert run("verify", tmp_path / "store").exit_code == 0


def test_an_interrupted_build_says_so_to_other_commands(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    (store.root / "manifest.json").unlink()
    (store.root / "work").mkdir()
    assert "found an unfinished build" in run("info", store.root).stderr


@pytest.mark.slow
def test_fidelity_of_a_teacher_and_of_its_store(
    tmp_path: Path, build_arguments: list[str | Path], tiny_teacher: Path
) -> None:
    options = ["--only", "bias", "--only", "gradients", "--dtype", "float32"]
    text = write_corpus(tmp_path / "text.jsonl", [f"{one} {n}" for n in range(9) for one in TEXTS])
    found = run(
        "fidelity", tiny_teacher, "--input", text, "--output", tmp_path / "of-teacher", *options
    )
    assert found.exit_code == 0
    assert run(*build_arguments, "--select", "hybrid").exit_code == 0
    of_store: list[str | Path] = ["fidelity", tmp_path / "store", "--teacher", tiny_teacher]
    assert run(*of_store, "--output", tmp_path / "of-store", *options).exit_code == 0
    for name in ("of-teacher", "of-store"):
        data = json.loads((tmp_path / name / "fidelity.json").read_text())
        assert {row["is_unbiased"] == (not row["is_meant_to_fail"]) for row in data["bias"]} == {
            True
        }
        assert {row["num_positions"] for row in data["gradients"]} >= {64, 256}
        assert "| draws | 200 |" in (tmp_path / name / "fidelity.md").read_text()
        assert (tmp_path / name / "gradients.png").stat().st_size > 10_000
    data = json.loads((tmp_path / "of-store" / "fidelity.json").read_text())
    own = "The store's own selection: --select hybrid --top-k 8 --draws 16, temperatures "
    assert data["selection"].startswith(own)
    assert own in (tmp_path / "of-store" / "fidelity.md").read_text()
    names = {row["name"] for row in data["gradients"]}
    assert names == {"top 8 and 16 draws, sampled", "top 8 and 16 draws, bucket"}
    data = json.loads((tmp_path / "of-teacher" / "fidelity.json").read_text())
    assert len({row["name"] for row in data["gradients"]}) == 17
    before = (tmp_path / "of-store" / "fidelity.md").read_bytes()
    refused = run(*of_store, "--output", tmp_path / "of-store", *options)
    assert refused.exit_code == 1
    assert "expected an empty directory, or nothing yet" in refused.output
    assert (tmp_path / "of-store" / "fidelity.md").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["teacher"], "no store, without --teacher, without --input"),
        (["store"], "a store, without --teacher, without --input"),
        (["store", "--teacher", "t", "--input", "x"], "a store, with --teacher, with --input"),
        (["teacher", "--teacher", "t"], "no store, with --teacher, without --input"),
    ],
)
def test_fidelity_takes_a_store_or_a_teacher(
    tmp_path: Path, arguments: list[str], found: str
) -> None:
    store = build_store(tmp_path).root
    named = [str(store) if one == "store" else one for one in arguments]
    result = run("fidelity", *named, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert found in " ".join(result.output.split())
