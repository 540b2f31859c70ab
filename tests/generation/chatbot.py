"""A causal teacher that can end an answer, with a chat template, and conversations for it."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TALKS = (
    [{"role": "user", "content": "Who sat on the bank?"}],
    [
        {"role": "user", "content": "Who fell?"},
        {"role": "assistant", "content": "Alice."},
        {"role": "user", "content": "How deep was the well?"},
        {"role": "assistant", "content": "Very deep."},
    ],
)


def save_chatbot(teacher: Path, directory: Path) -> Path:
    """Write a copy of a causal teacher as a chatbot."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    tokenizer.chat_template = TEMPLATE
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(9)
    tokenizer.save_pretrained(directory)
    loaded = AutoModelForCausalLM.from_pretrained(teacher)
    loaded.generation_config.eos_token_id = tokenizer.eos_token_id
    loaded.save_pretrained(directory)
    return directory
