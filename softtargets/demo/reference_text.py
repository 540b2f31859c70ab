"""The demo's text: the language reference that every CPython carries."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics

from softtargets.places.local_files import make_directory, write_file

HELD_OUT_EVERY = 16
"""Each sixteenth topic, from the first on, is kept from training."""
TRAIN_EVERY = 6
"""Each sixth topic, from the second on, is trained on: all would take six times as long."""


def write_corpus(directory: Path) -> tuple[Path, Path]:
    """Write the training and the held-out topics as JSON lines; return both paths."""
    make_directory(directory)
    names = sorted(topics)
    held_out = names[::HELD_OUT_EVERY]
    held_out_texts = {topics[name] for name in held_out}
    train = [name for name in names[1::TRAIN_EVERY] if topics[name] not in held_out_texts]
    paths = directory / "train.jsonl", directory / "held-out.jsonl"
    for path, chosen in zip(paths, (train, held_out), strict=True):
        lines = [json.dumps({"id": name, "text": topics[name]}) + "\n" for name in chosen]
        write_file(path, "".join(lines).encode())
    return paths
