"""Conversations under real chat templates, by a real tokenizer of transformers."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from softtargets.capture.chat import encode_conversation
from softtargets.capture.documents import Conversation
from softtargets.errors import CorpusError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
)
WITH_TOOLS = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>\n{% endif %}"
    "{% for m in messages %}[{{ m.role }}]"
    "{% if m.tool_calls %}<call>{{ m.tool_calls | tojson }}</call>"
    "{% else %}{{ m.content }}{% endif %}[end]\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
LAST_ONLY = (
    "{% for m in messages %}{{ m.role }}:{% if loop.last or m.role == 'user' %}{{ m.content }}"
    "{% else %}(left out){% endif %};{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Wie heißt du?"},
    {"role": "assistant", "content": "Ich heiße Zoë."},
    {"role": "user", "content": "assistant"},
    {"role": "assistant", "content": "Ja "},
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and the two special tokens of ChatML."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = Tokenizer(models.BPE(vocab={char: n for n, char in enumerate(alphabet)}, merges=[]))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=own)
    found.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return found


def encode(
    tokenizer: PreTrainedTokenizerFast, template: str | None, messages: Any = TALK, **options: Any
) -> tuple[str, list[str] | None]:
    """Return the text of a conversation, and the stretches of it that are targets."""
    tools, train_on = options.get("tools"), options.get("train_on", "assistant")
    conversation = Conversation(
        messages=messages, tools=tools, chat_template=template, train_on=train_on
    )
    ids, is_target = encode_conversation(tokenizer, conversation, "chat 7")
    if is_target is None:
        return str(tokenizer.decode(ids)), None
    runs: list[list[int]] = []
    for place, (token, wanted) in enumerate(zip(ids, is_target, strict=True)):
        if wanted and (place == 0 or not is_target[place - 1]):
            runs.append([])
        if wanted:
            runs[-1].append(token)
    return str(tokenizer.decode(ids)), [str(tokenizer.decode(run)) for run in runs]


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_the_turns_of_the_assistant_are_targets(
    tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    """Marked by the template or found by rendering; each with its end, which is to be learned."""
    text, targets = encode(tokenizer, template)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWie heißt")
    assert targets == ["Ich heiße Zoë.<|im_end|>", "Ja <|im_end|>"]


def test_all_tokens_are_targets_when_asked_for(tokenizer: PreTrainedTokenizerFast) -> None:
    text, targets = encode(tokenizer, CHATML, train_on="all")
    assert targets is None
    assert text == encode(tokenizer, CHATML)[0]


def test_tool_calls_are_rendered_by_the_template(tokenizer: PreTrainedTokenizerFast) -> None:
    tools = [{"name": "get", "parameters": {}}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "get"}]}
    messages = [
        {"role": "user", "content": "Weather?"}, call,
        {"role": "tool", "content": "sun"}, {"role": "assistant", "content": "Sunny."},
    ]  # fmt: skip
    text, targets = encode(tokenizer, WITH_TOOLS, messages, tools=tools)
    assert text.startswith('<tools>[{"name": "get"')
    assert targets == ['<call>[{"name": "get"}]</call>[end]', "Sunny.[end]"]


def test_the_tokenizers_own_template_is_used(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(CorpusError, match=r"chat 7: expected a chat template in the tokenizer"):
        encode(tokenizer, None)
    tokenizer.chat_template = CHATML
    try:
        assert encode(tokenizer, None) == encode(tokenizer, CHATML)
    finally:
        tokenizer.chat_template = None


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (LAST_ONLY, r"found one that writes message 2 otherwise when others follow"),
        ("{{ raise_exception('roles must alternate') }}", r"TemplateError: roles must alternate"),
        ("{% for m in messages %}", r"found TemplateSyntaxError"),
        ("{{ messages[0].content + 1 }}", r"found TypeError"),
    ],
)
def test_what_cannot_be_rendered_is_an_error(
    tokenizer: PreTrainedTokenizerFast, template: str, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        encode(tokenizer, template)
