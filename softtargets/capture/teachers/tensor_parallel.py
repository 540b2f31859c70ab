"""A causal language model whose matrices are cut over several processes, as torchrun starts them.

Rank 0 works. Every other rank follows it: it is told what to read or to capture, does so with its
part of the model, and throws away what comes out, which is the same on all ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from softtargets.capture.abilities import Abilities
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Keep
from softtargets.capture.memory import is_out_of_memory
from softtargets.capture.segments import Segment
from softtargets.capture.teacher import LayerShape, Teacher
from softtargets.capture.teachers.causal import TransformersTeacher
from softtargets.capture.teachers.model_files import TeacherConfig
from softtargets.errors import InputError, TeacherError, error_text

_PATIENCE = timedelta(days=30)
"""For which a rank waits for the next batch: rank 0 may have hours of planning before it."""


class TensorParallelTeacher(TransformersTeacher):
    """A model that every process of torchrun has a part of. Its head's parts cannot be stored.

    Raises:
        TeacherError: there is no such model, or it cannot be loaded.
        InputError: torchrun did not start as many processes.
    """

    abilities = Abilities(full_logits=True, any_temperature=True, draws=True)

    def __init__(self, config: TeacherConfig) -> None:
        self.rank = _find_rank(config)
        device = _own_device(config)
        super().__init__(replace(config, tensor_parallel=None, device=device))
        self.config = config
        self._is_led = False
        """Whether all ranks run a method at this moment, and so whatever it calls."""

    @property
    def _weight_options(self) -> dict[str, Any]:
        from transformers.distributed.configuration_utils import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_size=self.config.tensor_parallel)}

    def load(self) -> None:
        """Load the parts of all ranks.

        Raises:
            TeacherError: they cannot be loaded, or cut over so many processes.
        """
        with self._on_all("load"):
            super().load()

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states [B, L, D] of sequences, which all ranks read."""
        with self._on_all("hidden_states", input_ids_BL):
            return super().hidden_states(input_ids_BL)

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, V] of hidden states, which all ranks make."""
        with self._on_all("logits", hidden_ND):
            return super().logits(hidden_ND)

    def capture(self, segments: Sequence[Segment], keep: Keep) -> Selected:
        """Return the targets of segments, which all ranks read.

        Raises:
            TeacherError: memory does not suffice. Then ranks may no longer be in step.
        """
        try:
            with self._on_all("capture", list(segments), keep):
                return super().capture(segments, keep)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise TeacherError(
                self.name,
                expected="enough memory for a batch on every rank",
                found=error_text(error),
                next_step="Pass a smaller --batch-tokens, and run the same command again.",
            ) from error

    def layer_shape(self) -> LayerShape:
        """Refuse: the layers are in parts."""
        return Teacher.layer_shape(self)

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Let the other ranks go when rank 0 is through."""
        _join()
        yield
        self._tell("stop")
        dist.destroy_process_group()

    def follow(self) -> None:
        """Do what rank 0 does until it is through."""
        _join()
        while True:
            words: list[Any] = [None]
            dist.broadcast_object_list(words, src=0, device=torch.device("cpu"))
            what, *given = words[0]
            if what == "stop":
                break
            try:
                getattr(super(), what)(*(self._here(one) for one in given))
            except TeacherError:
                # Of what was read: rank 0 has the same error, and decides what comes of it.
                continue
        dist.destroy_process_group()

    def _here(self, given: Any) -> Any:
        return given.to(self.device) if isinstance(given, torch.Tensor) else given

    @contextmanager
    def _on_all(self, what: str, *given: Any) -> Iterator[None]:
        """Have all ranks run a method, unless they run one that has called it here."""
        if self._is_led:
            yield
            return
        self._tell(what, *(one.cpu() if isinstance(one, torch.Tensor) else one for one in given))
        self._is_led = True
        try:
            yield
        finally:
            self._is_led = False

    def _tell(self, *words: Any) -> None:
        """Tell the other ranks what to do; they do not speak themselves."""
        if self.rank == 0:
            dist.broadcast_object_list([words], src=0, device=torch.device("cpu"))


def _join() -> None:
    """Begin to speak with the other ranks."""
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)


def _find_rank(config: TeacherConfig) -> int:
    """Return which process of torchrun this is.

    Raises:
        InputError: torchrun did not start as many.
    """
    wanted, found = config.tensor_parallel, os.environ.get("WORLD_SIZE")
    if wanted is None or wanted < 2 or found != str(wanted):
        raise InputError(
            f"--tensor-parallel {wanted}",
            expected="as many processes of torchrun, two or more",
            found="no torchrun" if found is None else f"{found}",
            next_step="Run: torchrun --nproc-per-node N -m softtargets COMMAND ... "
            "--tensor-parallel N",
        )
    return int(os.environ["RANK"])


def _own_device(config: TeacherConfig) -> str:
    """Return the device of this process.

    Raises:
        InputError: another one is asked for.
    """
    for option, found in (
        ("--device", None if config.device in ("auto", "cpu", "cuda") else config.device),
        ("--compile", "the option" if config.compile else None),
        ("--device-map", config.device_map),
    ):
        if found is not None:
            raise InputError(
                option,
                expected="nothing of it beside --tensor-parallel, where each process has a device",
                found=found,
                next_step="Omit one of them.",
            )
    has_cards = torch.cuda.is_available() and config.device != "cpu"
    return f"cuda:{os.environ['LOCAL_RANK']}" if has_cards else "cpu"
