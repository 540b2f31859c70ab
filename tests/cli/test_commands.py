from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import click
import pytest

from softtargets.capture.tally import Tally
from softtargets.cli import main
from softtargets.store import Store
from softtargets.store.shard_table import ShardEntry
from tests.commands import run
from tests.fakes import TEXTS, build_store, shard_bytes, write_corpus
from tests.processes import CONTEXT, run_into


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
    options = ["--only", "gradients", "--dtype", "float32"]
    text = write_corpus(tmp_path / "text.jsonl", [f"{one} {n}" for n in range(9) for one in TEXTS])
    of_teacher: list[str | Path] = ["fidelity", tiny_teacher, "--input", text, "--only", "bias"]
    assert run(*of_teacher, "--output", tmp_path / "of-teacher", *options).exit_code == 0
    assert run(*build_arguments, "--select", "hybrid").exit_code == 0
    of_store: list[str | Path] = ["fidelity", tmp_path / "store", "--teacher", tiny_teacher]
    assert run(*of_store, "--output", tmp_path / "of-store", *options).exit_code == 0
    for name in ("of-teacher", "of-store"):
        data = json.loads((tmp_path / name / "fidelity.json").read_text())
        assert {row["num_positions"] for row in data["gradients"]} >= {64, 256}
        assert (tmp_path / name / "gradients.png").stat().st_size > 10_000
    data = json.loads((tmp_path / "of-store" / "fidelity.json").read_text())
    own = "The store's own selection: --select hybrid --top-k 8 --draws 16, temperatures "
    assert data["selection"].startswith(own)
    assert own in (tmp_path / "of-store" / "fidelity.md").read_text()
    names = {row["name"] for row in data["gradients"]}
    assert names == {"top 8 and 16 draws, sampled", "top 8 and 16 draws, bucket"}
    data = json.loads((tmp_path / "of-teacher" / "fidelity.json").read_text())
    assert len({row["name"] for row in data["gradients"]}) == 17
    assert all(row["is_unbiased"] != row["is_meant_to_fail"] for row in data["bias"])
    assert "| draws | 200 |" in (tmp_path / "of-teacher" / "fidelity.md").read_text()
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
