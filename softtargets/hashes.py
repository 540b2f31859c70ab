"""The hashes that files and ranges are known by."""

from __future__ import annotations

import hashlib
from io import BufferedReader
from pathlib import Path
from typing import Any

import xxhash


def checksum(content: bytes | memoryview) -> str:
    """Return the XXH3 of some bytes, 64 bits in hexadecimal."""
    return xxhash.xxh3_64_hexdigest(content)


def hash_bytes(content: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal, reading it in pieces."""
    with open(path, "rb") as file:
        return hash_stream(file)


def hash_stream(file: BufferedReader) -> str:
    """Return the SHA-256 of what is left of an open file, in hexadecimal, reading it in pieces."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """Return a file's name, size and SHA-256, as an identity has it."""
    return file_entry(path.name, path.stat().st_size, hash_file(path))


def file_entry(name: str, num_bytes: int, sha256: str) -> dict[str, Any]:
    """Return how an identity has a file."""
    return {"name": name, "num_bytes": num_bytes, "sha256": sha256}
