"""Causal language models of transformers, taken apart into a decoder and what makes its logits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from softtargets.capture.memory import enough_memory, is_out_of_memory
from softtargets.capture.teacher_tokenizer import TransformersTokenizer
from softtargets.capture.teachers.live_head import find_head, random_hidden_states
from softtargets.capture.teachers.local import LocalTeacher
from softtargets.capture.teachers.model_files import (
    TeacherConfig,
    first_line,
    hash_model,
    loading,
    locate,
    pick_device,
)
from softtargets.errors import TeacherError
from softtargets.targets import HeadWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MODEL_ERRORS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
_CHECKED_TOKENS = 8
_KEPT_KERNELS = "64"
_LEAK = 0.1
"""Most that a changed token may move the logits before it, as a share of how it moves its own.

Of causal models 0 was seen, as rounding alone can move them; of bidirectional ones a third and up.
"""


class TransformersTeacher(LocalTeacher):
    """A causal language model of transformers.

    Raises:
        TeacherError: there is no such model, or it cannot be loaded.
    """

    modules = ("transformers.modeling_utils",)

    def __init__(self, config: TeacherConfig) -> None:
        from transformers import AutoConfig

        self.config = config
        self._directory, self._commit = locate(config)
        with loading(config.name, "a causal language model that transformers knows"):
            self._model_config = AutoConfig.from_pretrained(
                self._directory, trust_remote_code=config.trust_remote_code
            )
        self.name = config.name if self._commit else self._directory.resolve().name
        self.vocab_size = int(self._model_config.get_text_config().vocab_size)
        """Width of the output head, padding included."""
        self.device = pick_device(config.device)
        self._is_loaded = False

    def __reduce__(self) -> tuple[Any, ...]:
        return TransformersTeacher, (self.config,)

    def for_worker(self, worker: int) -> TransformersTeacher:
        """Return a teacher for a process of its own, on a CUDA device in turn if it may choose."""
        device = self.config.device
        if device == "auto" and self.device.type == "cuda":
            device = f"cuda:{worker % torch.cuda.device_count()}"
        return TransformersTeacher(replace(self.config, device=device))

    @cached_property
    def tokenizer(self) -> TransformersTokenizer:
        """Return the model's own tokenizer."""
        return TransformersTokenizer(
            self._directory, trust_remote_code=self.config.trust_remote_code
        )

    def describe(self) -> dict[str, Any]:
        """Return hashes of the weights and the configuration, and how the model is run.

        Raises:
            TeacherError: there are no weight files.
        """
        teacher: dict[str, Any] = {
            "architecture": (self._model_config.architectures or ["unknown"])[0],
            **hash_model(self._directory),
            "revision": self._commit,
            "dtype": self.config.dtype,
            "attention": self.config.attention,
        }
        # Only when it is on: stores built before there was this option keep their fingerprints.
        return teacher | {"compile": True} if self.config.compile else teacher

    def load(self) -> None:
        """Load the weights, and check that the model can be taken apart into decoder and head.

        Loading again does nothing.

        Raises:
            TeacherError: the weights cannot be loaded or do not fit the device's memory, or the
                model cannot be run or compiled, or its architecture is not supported.
        """
        if self._is_loaded:
            return
        next_step = "Pass --dtype bfloat16, fewer --workers, or another --device."
        with enough_memory(self.name, "the model", self.device, next_step):
            self._load()
        self._is_loaded = True

    def _load(self) -> None:
        # Hardly two batches have the same shape, and of the compiled kernels of each oneDNN and
        # PyTorch's layer above it keep 1,024 by default: hundreds of MB, kernel by kernel. They
        # look at this when they are first used.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _KEPT_KERNELS)
        os.environ.setdefault("LRU_CACHE_CAPACITY", _KEPT_KERNELS)
        self._model = self._read_weights()
        self._model.eval().requires_grad_(False).to(self.device)
        self._decode: Callable[..., Any] = self._model.get_decoder()
        input_ids_1L = torch.arange(min(_CHECKED_TOKENS, self.vocab_size), device=self.device)[None]
        with self._running(
            f"a model that runs in {self.config.dtype} with {self.config.attention} attention",
            next_step="Try another --dtype, or --attention eager.",
        ):
            self._check_vocabulary()
            self._check_head(input_ids_1L)
            self._check_causality(input_ids_1L)
        if self.config.compile:
            # Only here: the checks compare bit for bit, and `logits` takes the place of the
            # decoder's own forward, which a compiled decoder would not ask for.
            self._decode = torch.compile(self._decode, dynamic=True)
            with self._running(
                "a decoder that torch.compile can compile and run",
                next_step="Omit --compile.",
            ):
                self.hidden_states(input_ids_1L.expand(2, -1))

    def _read_weights(self) -> PreTrainedModel:
        """Return the model with all of its weights."""
        from transformers import AutoModelForCausalLM

        with loading(
            self.config.name,
            f"weights that load in {self.config.dtype} with {self.config.attention} attention",
        ):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                self._directory,
                dtype=getattr(torch, self.config.dtype),
                attn_implementation=self.config.attention,
                trust_remote_code=self.config.trust_remote_code,
                output_loading_info=True,
            )
        model: PreTrainedModel = loaded[0]
        missing = sorted(loaded[1]["missing_keys"])
        if missing:
            raise TeacherError(
                self.name,
                expected="weights of the whole model, output head included",
                found=f"none for {', '.join(missing[:3])}",
                next_step="transformers would start them at random: pass the directory of a causal "
                "language model, not of its decoder alone.",
            )
        return model

    @torch.inference_mode()
    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states [B, L, D].

        Windows are padded on the right and no mask is passed: under causal attention a token sees
        nothing to its right, and this keeps the fastest attention kernels in use.
        """
        output = self._decode(input_ids=input_ids_BL, use_cache=False)
        self._output_type = type(output)
        hidden_BLD: torch.Tensor = output.last_hidden_state
        return hidden_BLD

    @torch.inference_mode()
    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, V], in the model's number format.

        The model's own forward pass makes them, with the decoder's output handed in, so whatever
        an architecture does after its head (soft-capping, scaling) is done here too.
        """
        decoder = self._model.get_decoder()
        output = self._output_type(last_hidden_state=hidden_ND[None])
        placeholder_1N = torch.zeros((1, len(hidden_ND)), dtype=torch.long, device=self.device)
        decoder.forward = lambda *_, **__: output
        try:
            logits_1NV = self._model(input_ids=placeholder_1N, use_cache=False).logits
        finally:
            del decoder.forward
        logits_NV: torch.Tensor = logits_1NV[0]
        return logits_NV

    @torch.inference_mode()
    def output_head(self) -> HeadWeights:
        """Return the weights of the model's head, and what it does to the logits after it.

        Raises:
            TeacherError: other logits follow from them than the model's own.
        """
        head = find_head(self._model)
        if head is not None and head.weight_VD.dtype == getattr(torch, self.config.dtype):
            hidden_ND = random_hidden_states(head).to(self.device)
            with self._running("a head that can be run", next_step="Omit --hidden-states."):
                own_NV = self.logits(hidden_ND)
            if own_NV.dtype == hidden_ND.dtype and torch.equal(head.logits(hidden_ND), own_NV):
                return head.numpy(self.config.dtype)
        raise TeacherError(
            self.name,
            expected="logits that are hidden @ weight.T + bias, scaled and soft-capped",
            found=f"others from {type(self._model).__name__}",
            next_step="This architecture's head cannot be stored: omit --hidden-states.",
        )

    def _check_vocabulary(self) -> None:
        """Check that every id below the vocabulary size can be read and predicted.

        On a GPU an id beyond a tensor ends the whole process, and names nothing.
        """
        for part, layer, name in (
            ("embedding", self._model.get_input_embeddings(), "num_embeddings"),
            ("output head", self._model.get_output_embeddings(), "out_features"),
        ):
            num_rows = getattr(layer, name, self.vocab_size)
            if num_rows < self.vocab_size:
                raise TeacherError(
                    self.name,
                    expected=f"an {part} of {self.vocab_size:,} rows, as its configuration says",
                    found=f"{num_rows:,}",
                    next_step="Correct vocab_size in the model's config.json.",
                )

    @torch.inference_mode()
    def _check_head(self, input_ids_1L: torch.Tensor) -> None:
        """Check that the two steps give what the model's own forward pass gives."""
        whole_LV = self._model(input_ids=input_ids_1L, use_cache=False).logits[0]
        parts_LV = self.logits(self.hidden_states(input_ids_1L)[0])
        if whole_LV.shape != parts_LV.shape or not torch.equal(whole_LV, parts_LV):
            raise TeacherError(
                self.name,
                expected="logits that follow from the decoder's last hidden states alone",
                found=f"others from {type(self._model).__name__}",
                next_step="This architecture is not supported yet; please report it.",
            )

    def _check_causality(self, input_ids_1L: torch.Tensor) -> None:
        """Check that a token moves no logits before it: windows are padded without a mask."""
        changed_1L = input_ids_1L.clone()
        changed_1L[:, -1] = 0
        logits_LV = self.logits(self.hidden_states(input_ids_1L)[0])
        moved_L = (self.logits(self.hidden_states(changed_1L)[0]) - logits_LV).abs().mean(dim=1)
        if (moved_L[:-1] > _LEAK * moved_L[-1]).any():
            raise TeacherError(
                self.name,
                expected="a causal model, in which no token sees what follows it",
                found=f"one that reads in both directions ({type(self._model).__name__})",
                next_step="Pass a causal language model.",
            )

    @contextmanager
    def _running(self, expected: str, *, next_step: str) -> Iterator[None]:
        try:
            yield
        except _MODEL_ERRORS as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            raise TeacherError(
                self.name, expected=expected, found=first_line(error), next_step=next_step
            ) from error
