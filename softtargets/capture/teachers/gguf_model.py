"""Causal language models in a GGUF file, whose weights transformers dequantises."""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from softtargets.capture.teacher_registry import check_used
from softtargets.capture.teachers.causal import TransformersTeacher
from softtargets.capture.teachers.model_files import TeacherConfig
from softtargets.errors import TeacherError, error_text
from softtargets.hashes import hash_file

_MAGIC = b"GGUF"
_USED = {"dtype", "attention", "device", "compile", "device_map", "offload_folder"}


class GgufFile:
    """A GGUF file, whose table of contents is read.

    Args:
        config: of the teacher that names it, as SCHEME:FILE.

    Raises:
        TeacherError: there is none, it is damaged, or the package that reads it is not installed.
    """

    def __init__(self, config: TeacherConfig) -> None:
        where = f"--teacher {config.name}"
        self.path = Path(config.name.partition(":")[2])
        self._check_magic(where)
        if find_spec("gguf") is None:
            raise TeacherError(
                where,
                expected="the package gguf, which reads the file",
                found="it not installed",
                next_step="Run: pip install 'softtargets[gguf]'",
            )
        from gguf import GGUFReader

        try:
            found = GGUFReader(self.path)
            self.architecture = str(found.fields["general.architecture"].contents())
            self.vocab_size = len(found.fields["tokenizer.ggml.tokens"].data)
        except (ValueError, IndexError, KeyError, OSError) as error:
            raise TeacherError(
                where,
                expected="a GGUF file that is whole, with a tokenizer",
                found=error_text(error),
                next_step="Copy it again, or pass another one.",
            ) from error
        self.types = sorted({tensor.tensor_type.name for tensor in found.tensors})

    def _check_magic(self, where: str) -> None:
        next_step = "Pass the path of a .gguf file after the colon."
        try:
            with self.path.open("rb") as file:
                magic = file.read(len(_MAGIC))
        except OSError as error:
            raise TeacherError(
                where, failed="cannot be read", found=error_text(error), next_step=next_step
            ) from error
        if magic != _MAGIC:
            raise TeacherError(
                where,
                expected="a GGUF file, which begins with GGUF",
                found=f"one that begins with {magic!r}",
                next_step=next_step,
            )

    def describe(self) -> dict[str, Any]:
        """Return its hash and the types of its tensors, as an identity has them.

        The configuration of the model is in the file, so its hash is that of both.
        """
        sha256 = hash_file(self.path)
        quantization = {"method": "gguf", "types": self.types}
        return {"weights_sha256": sha256, "config_sha256": sha256, "quantization": quantization}


class GgufTeacher(TransformersTeacher):
    """A model in a GGUF file, run by transformers with weights in `dtype`.

    Raises:
        TeacherError: there is no such file, or it cannot be loaded.
        InputError: an option is set that means nothing to such a file.
    """

    def __init__(self, config: TeacherConfig) -> None:
        check_used(config, frozenset(_USED))
        self._file = GgufFile(config)
        super().__init__(config)
        self.name = self._file.path.stem

    def _find(self) -> tuple[Path, None]:
        return self._file.path.parent, None

    @property
    def _file_options(self) -> dict[str, Any]:
        return {"gguf_file": self._file.path.name}

    @property
    def _weight_options(self) -> dict[str, Any]:
        from transformers import GgufConfig

        # Without it recent versions keep the weights quantised, and round otherwise.
        return {"quantization_config": GgufConfig(dequantize=True)}

    @cached_property
    def _file_identity(self) -> dict[str, Any]:
        return self._file.describe()

    def describe(self) -> dict[str, Any]:
        """Return what is in the file, and how the model is run."""
        import transformers

        models = getattr(transformers, self.auto_class)._model_mapping
        kind = models[type(self._model_config)]
        return super().describe() | {"architecture": kind.__name__}
