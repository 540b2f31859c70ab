"""What a chat template drops without an error is found by rendering, and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from softtargets.capture import Corpus, Windowing, build
from softtargets.capture.documents import Conversation
from softtargets.capture.teacher_tokenizer import TransformersTokenizer
from softtargets.capture.unused import UnusedParts
from tests.fakes import FakeTeacher, build_config, byte_tokenizer

HEADER = "{% for m in messages %}<{{ m.role }}>"
PROMPT = "{% if add_generation_prompt %}<assistant>{% endif %}"
PLAIN = HEADER + "{{ m.content }}</>\n{% endfor %}" + PROMPT
WITH_ALL = (
    "{% if tools %}{{ tools | tojson }}{% endif %}" + HEADER + "{{ m.thinking or '' }}"
    "{{ (m.tool_calls or '') | tojson }}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content or [] %}{{ part.text or part.url }}{% endfor %}{% endif %}</>\n"
    "{% endfor %}" + PROMPT
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}</>\n"
    "{% endif %}{% endfor %}" + PROMPT
)
NO_ROLES = "{% for m in messages %}{{ m.content }}</>\n{% endfor %}"
TOOL_IS_USER = (
    "{% for m in messages %}<{{ 'user' if m.role == 'tool' else m.role }}>{{ m.content }}</>\n"
    "{% endfor %}" + PROMPT
)
NO_EMPTY_TURNS = (
    "{% for m in messages if m.content %}<{{ m.role }}>{{ m.content }}</>\n{% endfor %}" + PROMPT
)
TEXT_ITEMS = (
    HEADER + "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% else %}[image]{% endif %}{% endfor %}{% endif %}"
    "</>\n{% endfor %}" + PROMPT
)
NO_THOUGHTS = HEADER + "{{ m.content.split('</think>')[-1].strip() }}</>\n{% endfor %}" + PROMPT
HALF_MARKED = (
    HEADER + "{% if m.tool_calls %}{{ m.tool_calls }}{% elif m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}</>"
    "{% endfor %}"
)
TOOLS = [{"name": "weather", "parameters": {}}]
ASKED = {"role": "user", "content": "Weather?"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "name": "weather"}]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "sun"}
ANSWER = {"role": "assistant", "content": "It is sunny."}
SYSTEM = {"role": "system", "content": "Be brief."}
IMAGE = {
    "role": "user",
    "content": [{"type": "text", "text": "What?"}, {"type": "image", "url": "a.png"}],
}


def unused(template: str, messages: list[dict[str, Any]], tools: Any = None) -> set[str]:
    conversation = Conversation(
        messages=messages, tools=tools, chat_template=template, train_on="assistant"
    )
    return set(UnusedParts(byte_tokenizer()).of(conversation))


@pytest.mark.parametrize(
    ("template", "messages", "tools", "expected"),
    [
        (PLAIN, [SYSTEM, ASKED, ANSWER], None, set()),
        (PLAIN, [ASKED, ANSWER], TOOLS, {"tools"}),
        (PLAIN, [ASKED, CALL, RESULT, ANSWER], None, {"tool_calls of assistant messages"}),
        (
            WITH_ALL,
            [SYSTEM, IMAGE, CALL, RESULT, {**ANSWER, "thinking": "Sun."}],
            TOOLS,
            set(),
        ),
        (NO_SYSTEM, [SYSTEM, ASKED, ANSWER], None, {"content of system messages"}),
        (
            NO_ROLES,
            [SYSTEM, ASKED, ANSWER],
            None,
            {f"role of {role} messages" for role in ("system", "user", "assistant")},
        ),
        (TOOL_IS_USER, [ASKED, RESULT, ANSWER], None, {"role of tool messages"}),
        (
            PLAIN,
            [ASKED, {**ANSWER, "reasoning_content": "Sun, so sunny."}],
            None,
            {"reasoning_content of assistant messages"},
        ),
        (TEXT_ITEMS, [IMAGE, ANSWER], None, {"image items in the content of user messages"}),
        (
            NO_THOUGHTS,
            [ASKED, {"role": "assistant", "content": "<think>\nSun.\n</think>\nIt is sunny."}],
            None,
            {"whole content of assistant messages"},
        ),
        (NO_THOUGHTS, [ASKED, ANSWER], None, set()),
        (
            HALF_MARKED,
            [ASKED, CALL, RESULT, ANSWER],
            None,
            {"{% generation %} tags around some assistant messages, which are no targets then"},
        ),
    ],
)
def test_what_a_template_drops_is_named(
    template: str, messages: list[dict[str, Any]], tools: Any, expected: set[str]
) -> None:
    assert unused(template, messages, tools) == expected


def test_a_shape_is_tried_once_and_each_content_looked_at() -> None:
    """Thoughts are dropped from what one conversation says, not from others of its shape."""
    parts = UnusedParts(byte_tokenizer())
    thought = {"role": "assistant", "content": "<think>Sun.</think>It is sunny."}
    found = [
        parts.of(
            Conversation(
                messages=[ASKED, answer],
                tools=None,
                chat_template=NO_THOUGHTS,
                train_on="assistant",
            )
        )
        for answer in (ANSWER, thought, ANSWER)
    ]
    assert found == [(), ("whole content of assistant messages",), ()]


@pytest.fixture
def teacher(tmp_path: Path) -> FakeTeacher:
    """The fake teacher with a tokenizer of transformers that has a chat template."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = NO_EMPTY_TURNS
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    found = FakeTeacher()
    found.tokenizer = TransformersTokenizer(tmp_path / "tokenizer", trust_remote_code=False)
    return found


def chat_corpus(directory: Path, conversations: list[Any], **fields: Any) -> Corpus:
    path = directory / "chat.jsonl"
    records = [{"messages": messages, "tools": TOOLS} for messages in conversations]
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return Corpus(paths=(path,), messages_field="messages", tools_field="tools", **fields)


def test_a_build_says_and_counts_what_is_dropped(
    tmp_path: Path, teacher: FakeTeacher, logged: list[str]
) -> None:
    """A turn of which nothing is written has no target, where it used to be an error."""
    talks = [[ASKED, ANSWER], [ASKED, CALL, RESULT, ANSWER]]
    config = build_config(
        tmp_path, corpus=chat_corpus(tmp_path, talks), windowing=Windowing(sequence_length=128)
    )
    store = build(config, teacher).store
    assert len(logged) == 2
    assert "out the tools: in 2 conversations, the first of them chat.jsonl, doc" in logged[0]
    assert "the tool_calls of assistant messages: in 1 conversation, the first of " in logged[1]
    assert store.manifest.corpus["partly_written_documents"] == 2
    called = list(store)[1]
    answers = teacher.tokenizer.vocabulary().text(called.input_ids_L[called.target_positions_T + 1])
    assert answers == "It is sunny.</>"


def test_a_store_whose_conversations_are_whole_has_no_such_count(
    tmp_path: Path, teacher: FakeTeacher, logged: list[str]
) -> None:
    corpus = chat_corpus(tmp_path, [[ASKED, ANSWER]], chat_template=WITH_ALL)
    config = build_config(tmp_path, corpus=corpus, windowing=Windowing(sequence_length=128))
    store = build(config, teacher).store
    assert "partly_written_documents" not in store.manifest.corpus
    assert not logged
