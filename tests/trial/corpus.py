"""The trial's text: conversations with tools about the language reference of every CPython."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

NUM_CONVERSATIONS = 60
NUM_TEXTS = 5
CHAT_TEMPLATE = Path(__file__).parent / "chat.jinja"
"""In the manner of Gemma's instruction-tuned models; the one at hand is not, and has none."""
_TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"topic": {"type": "string"}}},
}
_ANSWER, _TEXT = 50, 450
"""Characters of an answer and of a text."""


def write_corpora(directory: Path) -> tuple[Path, Path]:
    """Write conversations and texts as JSON lines; return both paths."""
    names = sorted(topics)
    talks = [_conversation(name, bool(at % 2)) for at, name in enumerate(names)]
    texts = [{"text": topics[name][:_TEXT]} for name in names[::-1][:NUM_TEXTS]]
    paths = directory / "chats.jsonl", directory / "texts.jsonl"
    for path, records in zip(paths, (talks[:NUM_CONVERSATIONS], texts), strict=True):
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return paths


def _conversation(topic: str, has_call: bool) -> dict[str, Any]:
    """Return a question, a call of the tool and its result in every other one, and the answer."""
    lines = " ".join(topics[topic].split())
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"What is {topic} in Python?"}]
    if has_call:
        call = {"type": "function", "function": {"name": "look_up", "arguments": {"topic": topic}}}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        messages.append({"role": "tool", "content": lines[_ANSWER : 2 * _ANSWER]})
    messages.append({"role": "assistant", "content": lines[:_ANSWER]})
    return {"messages": messages, "tools": [_TOOL] if has_call else []}
