"""`softtargets plan`: what it prints beside the numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result

from tests.commands import run

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TALK = [
    {"role": "user", "content": "Hi \x1b[31m" + "so " * 300},
    {"role": "assistant", "content": "Hello.\nYes?"},
]


@pytest.fixture
def planned(tmp_path: Path, tiny_teacher: Path) -> list[str | Path]:
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    record = {"messages": TALK, "tools": [{"name": "get"}]}
    (tmp_path / "chat.jsonl").write_text(json.dumps(record) + "\n")
    return [
        "plan", "--teacher", tiny_teacher, "--input", tmp_path / "chat.jsonl", "--messages-field",
        "messages", "--tools-field", "tools", "--chat-template", tmp_path / "template.jinja",
        "--sequence-length", "2000",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_conversation_is_printed_with_its_targets_marked(planned: list[str | Path]) -> None:
    result: Result = run(*planned)
    assert result.exit_code == 0, result.output
    *_, told = result.output.partition("chat.jsonl, document 0, as the teacher reads it")
    assert "<assistant>[[Hello.]]\n[[Yes?</>]]\n" in told
    assert "<user>Hi \\x1b[31mso so " in told
    assert " ... " in told
    assert "\x1b" not in told
    assert "1 conversation in part, by the chat template" in " ".join(result.output.split())


@pytest.mark.slow
def test_json_has_it_whole_with_what_is_left_out(planned: list[str | Path]) -> None:
    found = json.loads(run(*planned, "--json").stdout)
    before, target, after = found["conversation"]
    assert before == {"text": f"<user>{TALK[0]['content']}</>\n<assistant>", "is_target": False}
    assert target == {"text": "Hello.\nYes?</>", "is_target": True}
    assert after == {"text": "\n", "is_target": False}
    (unused,) = found["unused"]
    assert unused == {"part": "tools", "num_documents": 1, "first": "chat.jsonl, document 0"}
    assert found["num_targets"] == len("Hello.\nYes?</>")
    assert found["num_targets"] * found["bytes_per_target"] == pytest.approx(
        found["corpus"]["tokens"] * found["bytes_per_token"]
    )
