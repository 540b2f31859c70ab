"""Causal language models that vLLM runs in this process.

Targets are selected inside vLLM's workers, from the hidden states of every token that they read.
So everything can be kept that a model of transformers tells, and no list of log-probabilities is
made.

Shapes: B segments in a batch, L their tokens, N targets of all of them, V vocabulary, D width of
the hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from softtargets.capture.abilities import ALL_LOGITS
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Keep, TopK
from softtargets.capture.segments import Segment, check_ids
from softtargets.capture.servers.calibration_text import NUM_IDS, TEXT
from softtargets.capture.teacher_registry import check_used
from softtargets.capture.teacher_tokenizer import TransformersTokenizer
from softtargets.capture.teachers.local import LocalTeacher
from softtargets.capture.teachers.model_files import (
    TeacherConfig,
    hash_model,
    loading,
    locate,
)
from softtargets.capture.vllm_engine.engine_head import check_head
from softtargets.capture.vllm_engine.engine_in_process import VllmEngine, open_engine
from softtargets.capture.vllm_engine.hook_check import (
    NUM_ENTRIES,
    check_hook,
    listed_logprobs,
    selected_logprobs,
)
from softtargets.capture.vllm_engine.vllm_options import (
    check_engine_args,
    deciding_args,
    vllm_version,
)
from softtargets.errors import TeacherError
from softtargets.targets import HeadWeights
from softtargets.window import TokenWindow

_USED = frozenset({"revision", "dtype", "trust_remote_code", "tensor_parallel", "engine_arg"})


class VllmTeacher(LocalTeacher):
    """A model that an engine of vLLM runs, on as many devices as `tensor_parallel` says.

    Raises:
        TeacherError: there is no such model, or no vLLM that was tested.
        InputError: an option is set that means nothing to vLLM, or may not be set.
    """

    def __init__(self, config: TeacherConfig) -> None:
        from transformers import AutoConfig

        check_used(config, _USED)
        self._given = dict(config.engine_arg)
        check_engine_args(self._given)
        self.config = config
        self._version = vllm_version(config)
        model = replace(config, name=config.name.partition(":")[2], engine_arg=())
        self._directory, self._commit = locate(model)
        with loading(config.name, "a model that transformers knows"):
            self._model_config = AutoConfig.from_pretrained(
                self._directory, trust_remote_code=config.trust_remote_code
            )
        self.name = model.name if self._commit else self._directory.resolve().name
        self.vocab_size = int(self._model_config.get_text_config().vocab_size)
        self.longest_sequence = self._given.get("max_model_len")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # A head that is cut over several devices cannot be stored beside hidden states.
        is_whole = config.tensor_parallel in (None, 1)
        self.abilities = replace(ALL_LOGITS, hidden_states=is_whole)
        self._engine: VllmEngine | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.config,)

    @cached_property
    def tokenizer(self) -> TransformersTokenizer:
        """Return the model's own tokenizer."""
        return TransformersTokenizer(
            self._directory, trust_remote_code=self.config.trust_remote_code
        )

    def describe(self) -> dict[str, Any]:
        """Return hashes of the model, and which vLLM runs it with which options.

        Raises:
            TeacherError: there are no weight files.
        """
        deciding = deciding_args(self._given)
        return {
            "architecture": (self._model_config.architectures or ["unknown"])[0],
            **hash_model(self._directory),
            "revision": self._commit,
            "dtype": self.config.dtype,
            "attention": "vllm",
            "engine": f"vllm {self._version}",
            **({"engine_args": deciding} if deciding else {}),
        }

    def load(self) -> None:
        """Start the engine, and check that what is selected in it is what vLLM itself lists.

        Raises:
            TeacherError: vLLM cannot load the model, or is not as in the versions that were tested.
        """
        if self._engine is None:
            engine = open_engine(self.name, self._options)
            if not engine.is_checked:
                try:
                    self._check(engine)
                except TeacherError:
                    engine.close()
                    raise
                engine.is_checked = True
            self._engine = engine

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "model": str(self._directory),
            "dtype": self.config.dtype,
            "trust_remote_code": self.config.trust_remote_code,
            "tensor_parallel_size": self.config.tensor_parallel or 1,
            **self._given,
        }

    def _check(self, engine: VllmEngine) -> None:
        ids = self.tokenizer.encode_batch([TEXT])[0][: min(NUM_IDS, engine.longest_prompt)]
        (listed,) = engine.listed([ids], NUM_ENTRIES)
        engine.install(self.vocab_size)
        keep = Keep(selection=TopK(k=NUM_ENTRIES), temperatures=(1.0,))
        found = engine.keep([_segment(ids, len(ids) - 1)], keep)
        check_hook(
            listed_logprobs(listed, ids),
            selected_logprobs(Selected.of_tensors(found)),
            self.name,
            self.config.dtype,
        )
        self._check_width(engine.logits(engine.keep([_segment(ids, 1)], None)["hidden_ND"]))

    def _check_width(self, logits_NV: torch.Tensor) -> None:
        if logits_NV.shape[1] != self.vocab_size:
            raise TeacherError(
                self.name,
                expected=f"logits of {self.vocab_size:,} ids, as its configuration says",
                found=f"{logits_NV.shape[1]:,}",
                next_step="Correct vocab_size in the model's config.json.",
            )

    def capture(self, segments: Sequence[Segment], keep: Keep) -> Selected:
        """Return the targets of segments, which the engine reads together."""
        return Selected.of_tensors(self._keep(segments, keep))

    def read(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Return the last hidden states [N, D] at the targets of segments, on the host."""
        return self._keep(segments, None)["hidden_ND"]

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states [B, L, D] of sequences padded on the right."""
        segments = [_segment(ids_L.tolist(), len(ids_L)) for ids_L in input_ids_BL]
        hidden_BLD: torch.Tensor = self.read(segments).unflatten(0, tuple(input_ids_BL.shape))
        return hidden_BLD

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, V] of hidden states, in the teacher's number format."""
        return self._loaded.logits(hidden_ND)

    @torch.inference_mode()
    def output_head(self) -> HeadWeights:
        """Return the weights of the model's head, and what vLLM does to the logits after it.

        Raises:
            TeacherError: other logits follow from them than vLLM's, or they are not known.
        """
        head = check_head(self._loaded.head(self.vocab_size), self.logits, self.name)
        return head.numpy(self.config.dtype)

    def _keep(self, segments: Sequence[Segment], keep: Keep | None) -> dict[str, torch.Tensor]:
        """Return what is to be kept of the targets of segments.

        Raises:
            TeacherError: a segment has an id that the teacher does not know.
        """
        check_ids(segments, self.vocab_size, self.name)
        return self._loaded.keep([one for one in segments if len(one.positions_T)], keep)

    @property
    def _loaded(self) -> VllmEngine:
        assert self._engine is not None, "load the teacher first"
        return self._engine


def _segment(ids: Sequence[int], num_targets: int) -> Segment:
    """Return a sequence by itself, of whose first tokens something is wanted."""
    ids_L = np.array(ids, np.int32)
    positions_T = np.arange(num_targets, dtype=np.int32)
    window = TokenWindow(
        window_id="0" * 32,
        input_ids_L=ids_L,
        segment_lengths_S=np.array([len(ids_L)], np.int32),
        mask_T=np.ones(num_targets, np.bool_),
        document_ids=("",),
        offset=0,
        source="",
    )
    return Segment(
        window=window,
        document_id="",
        start=0,
        input_ids_L=ids_L,
        positions_T=positions_T,
        # Nothing follows the last token.
        label_ids_T=ids_L[(positions_T + 1).clip(max=len(ids_L) - 1)],
    )
