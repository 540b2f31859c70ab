"""Causal language models in a GGUF file, run by llama.cpp in this process.

It computes with the quantised weights themselves and quantises what they are multiplied with, so
its numbers differ from those of transformers: `--reference gguf:FILE` measures by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from softtargets.capture.abilities import Abilities
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Keep
from softtargets.capture.segments import Segment
from softtargets.capture.teacher_registry import check_used
from softtargets.capture.teacher_tokenizer import TransformersTokenizer
from softtargets.capture.teachers.gguf_model import GgufFile
from softtargets.capture.teachers.local import LocalTeacher
from softtargets.capture.teachers.model_files import TeacherConfig
from softtargets.errors import TeacherError, error_text

if TYPE_CHECKING:
    from llama_cpp import Llama

_LEAST_CONTEXT = 512
_FLOAT32 = 0
"""What ggml calls the number format, here of keys and values."""


class LlamaTeacher(LocalTeacher):
    """A model that llama.cpp runs on the CPU. What it gives as hidden states are its logits.

    Raises:
        TeacherError: there is no such file, or llama.cpp is not installed.
        InputError: an option is set that means nothing to llama.cpp.
    """

    abilities = Abilities(full_logits=True, any_temperature=True, draws=True, batch_invariant=True)

    def __init__(self, config: TeacherConfig) -> None:
        check_used(config, frozenset())
        self.config = config
        if find_spec("llama_cpp") is None:
            raise TeacherError(
                f"--teacher {config.name}",
                expected="the package llama-cpp-python, which runs the model",
                found="it not installed",
                next_step="Run: pip install 'softtargets[llama]', which compiles it for some "
                f"minutes. Or pass gguf:{config.name.partition(':')[2]} to run it by transformers.",
            )
        self._file = GgufFile(config)
        self.name = self._file.path.stem
        self.vocab_size = self._file.vocab_size
        self._llama: Llama | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.config,)

    @cached_property
    def tokenizer(self) -> TransformersTokenizer:
        """Return the tokenizer in the file, as transformers reads it."""
        path = self._file.path
        return TransformersTokenizer(path.parent, trust_remote_code=False, gguf_file=path.name)

    def describe(self) -> dict[str, Any]:
        """Return what is in the file, and which llama.cpp runs it."""
        return {
            "architecture": self._file.architecture,
            **self._file.describe(),
            "revision": None,
            "dtype": "float32",
            "attention": "llama.cpp",
            "engine": f"llama-cpp-python {version('llama-cpp-python')}",
        }

    def load(self) -> None:
        """Load the weights.

        Raises:
            TeacherError: llama.cpp cannot load them.
        """
        if self._llama is None:
            self._llama = self._open(_LEAST_CONTEXT)

    def _open(self, num_tokens: int) -> Llama:
        """Return the model with room for sequences of some tokens; the weights are mapped."""
        from llama_cpp import Llama

        num_threads = torch.get_num_threads()
        try:
            return Llama(
                str(self._file.path),
                n_ctx=num_tokens,
                logits_all=True,
                n_threads=num_threads,
                n_threads_batch=num_threads,
                type_k=_FLOAT32,
                type_v=_FLOAT32,
                verbose=False,
            )
        except ValueError as error:
            raise TeacherError(
                self.name,
                expected=f"a model that llama.cpp can load, with room for {num_tokens:,} tokens",
                found=error_text(error),
                next_step="Pass a smaller --sequence-length, or run it by transformers: "
                f"--teacher gguf:{self._file.path}.",
            ) from error

    def capture(self, segments: Sequence[Segment], keep: Keep) -> Selected:
        """Return the targets of segments, of which one at a time is read."""
        alone = [LocalTeacher.capture(self, [one], keep) for one in segments]
        return Selected.concatenate(alone)

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, L, V] of sequences padded on the right."""
        return torch.stack([self._read(ids_L) for ids_L in input_ids_BL.numpy()])

    def _read(self, ids_L: np.ndarray) -> torch.Tensor:
        """Return the logits [L, V] of a sequence."""
        assert self._llama is not None
        if len(ids_L) > self._llama.n_ctx():
            self._llama.close()
            self._llama = self._open(1 << (len(ids_L) - 1).bit_length())
        self._llama.reset()
        self._llama.eval(ids_L.tolist())
        return torch.from_numpy(self._llama.scores[: len(ids_L)].copy())

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return logits as they are."""
        return hidden_ND
