"""What vLLM's workers can do beside their own, by collective_rpc: select, and return bytes.

vLLM mixes the class into that of its workers, which have a model runner.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from typing import Any

import torch

from softtargets.capture.keep.keeper import Workspace
from softtargets.capture.memory import is_out_of_memory
from softtargets.capture.vllm_engine.prompt_rows import PromptPart, PromptRows, Share
from softtargets.capture.vllm_engine.runner_seams import SeamError, install
from softtargets.capture.vllm_engine.tensor_bytes import tensors_from_bytes, tensors_to_bytes
from softtargets.errors import error_text


class WorkerExtension:
    """Selects targets where a worker has hidden states.

    What goes wrong is returned and not raised: an exception would end the engine, and across
    processes little is left of it.
    """

    model_runner: Any
    """vLLM's."""

    def softtargets_install(self, vocab_size: int) -> str:
        """Have hidden states handed to this class; return JSON of the runner, or what is wrong."""
        from vllm.distributed import (
            get_tensor_model_parallel_rank,
            get_tensor_model_parallel_world_size,
        )

        self._softtargets_rows: PromptRows | None = None
        self._softtargets_failure: str | None = None
        self._softtargets_vocab_size = vocab_size
        self._softtargets_share = Share(
            rank=get_tensor_model_parallel_rank(), num_ranks=get_tensor_model_parallel_world_size()
        )
        self._softtargets_workspace = Workspace()
        try:
            return json.dumps({"runner": install(self.model_runner, self._softtargets_take)})
        except SeamError as error:
            return json.dumps({"expected": error.expected, "found": error.found})

    def softtargets_begin(self, request: bytes) -> None:
        """Begin with the prompts of some segments, a pickle of these and of what to keep."""
        segments, keep = pickle.loads(request)  # noqa: S301 - The process that began this one.
        device = self.model_runner.device
        self._softtargets_failure = None
        self._softtargets_rows = PromptRows(
            segments,
            keep,
            self._softtargets_logits,
            self._softtargets_vocab_size,
            device,
            share=self._softtargets_share,
            # Other devices have allocators that give the same memory again.
            workspace=self._softtargets_workspace if device.type == "cpu" else None,
        )

    @torch.inference_mode()
    def _softtargets_take(self, parts: Sequence[PromptPart]) -> None:
        if self._softtargets_rows is None or self._softtargets_failure is not None:
            return
        try:
            self._softtargets_rows.add(parts)
        except RuntimeError as error:
            self._softtargets_failure = error_text(error)
            if not is_out_of_memory(error):
                raise

    def softtargets_failure(self) -> str | None:
        """Return why not everything was kept since the beginning, or None."""
        return self._softtargets_failure

    def softtargets_end(self) -> bytes:
        """Return what was kept since the beginning: a row for each target that came."""
        rows, self._softtargets_rows = self._softtargets_rows, None
        assert rows is not None
        return tensors_to_bytes(rows.tensors())

    @torch.inference_mode()
    def softtargets_logits(self, hidden: bytes) -> bytes:
        """Return the logits of hidden states."""
        hidden_ND = tensors_from_bytes(hidden)["hidden_ND"].to(self.model_runner.device)
        return tensors_to_bytes({"logits_NV": self._softtargets_logits(hidden_ND)})

    def softtargets_head(self) -> bytes:
        """Return the weights of the output head, as far as a layer keeps them as they are."""
        layer = getattr(self.model_runner.model, "lm_head", None)
        found = {
            "weight_VD": getattr(layer, "weight", None),
            "bias_V": getattr(layer, "bias", None),
        }
        return tensors_to_bytes({name: one for name, one in found.items() if one is not None})

    def softtargets_after_head(self) -> str:
        """Return JSON of what scales and caps the logits after it."""
        after = getattr(self.model_runner.model, "logits_processor", None)
        names = {"scale": "scale", "softcap": "soft_cap"}
        return json.dumps({own: getattr(after, name, None) for own, name in names.items()})

    def _softtargets_logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return logits [N, V], without what pads the vocabulary."""
        logits_NV: torch.Tensor = self.model_runner.model.compute_logits(hidden_ND)
        return logits_NV
