"""Foreign text is shown on the terminal, and nothing but one file writes there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from click.testing import CliRunner

import softtargets.cli
from softtargets.cli import main
from softtargets.cli.tables import key_value_table
from softtargets.cli.terminal import cell, echo

HOSTILE = "\x1b[31m\x9b1m\u202e\r\n[red] s3://key:hunter22@bucket/a"
SHOWN = "\\x1b[31m\\x9b1m\\u202e\\r\\n[red] s3://bucket/a"
COMMANDS = Path(softtargets.cli.__file__).parent


def test_lines_and_cells_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    echo(HOSTILE, "b")
    assert capsys.readouterr().out == f"{SHOWN}\nb\n"
    assert cell(HOSTILE).plain == SHOWN
    table = key_value_table(HOSTILE, {"name": HOSTILE})
    assert table.title == cell(HOSTILE)
    assert list(table.columns[1].cells) == [cell(HOSTILE)]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(COMMANDS.glob("*.py")), ids=lambda path: path.name)
def test_one_file_alone_writes_to_the_terminal(path: Path) -> None:
    calls = [
        ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]  # fmt: skip
    assert {"click.echo", "click.secho", "json.dumps"} & set(calls) <= (
        {"click.echo", "json.dumps"} if path.name == "terminal.py" else {"json.dumps"}
    )


@pytest.mark.parametrize(
    "arguments",
    [("info", "a", HOSTILE), (HOSTILE,), ("info", f"--{HOSTILE}"), ("info", HOSTILE),
     ("report", "a", "--output", "b", "--windows", HOSTILE)],
)  # fmt: skip
def test_arguments_are_quoted_safely(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code in (1, 2)
    assert not {one for one in result.output if not one.isprintable()} - {"\n"}
    assert "hunter22" not in result.output


@pytest.mark.parametrize("wrong", ["", "s3://key:hunter22@bucket/a", "file:///a"])
def test_a_path_is_no_url(wrong: str) -> None:
    export = ("export", "--to", "plain", "a")
    for arguments in (("push",), export, ("pull", "org/name"), ("report", "a", "--output")):
        result = CliRunner().invoke(main, [*arguments, wrong])
        assert result.exit_code == 1
        assert "expected a local " in result.output
        assert f"found {'a URL' if wrong else 'an empty text'}." in result.output
        assert "hunter22" not in result.output
