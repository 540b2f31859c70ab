"""Questions and answers of the package chatterbot-corpus (PyPI, BSD), as conversations.

pip download --no-deps chatterbot-corpus && unzip chatterbot_corpus-*.whl
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from softtargets.store.foreign_yaml import parse_yaml

Conversation = Mapping[str, Any]


def read_conversations(directory: Path, seed: int = 0) -> list[Conversation]:
    """Return the beginnings of conversations in random order, each question once.

    Each is a record whose field `messages` has a question of the user and its answer.

    Args:
        directory: with the files *.yml of a language.
        seed: of the order.
    """
    answers: dict[str, str] = {}
    for path in sorted(directory.glob("*.yml")):
        found: Any = parse_yaml(path.read_text(), str(path))
        for question, answer, *_ in found["conversations"]:
            answers.setdefault(str(question), str(answer))
    if not answers:
        raise SystemExit(f"{directory}: expected files *.yml with conversations; found none.")
    talks = [
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        }
        for question, answer in answers.items()
    ]
    return [talks[place] for place in np.random.default_rng(seed).permutation(len(talks))]
