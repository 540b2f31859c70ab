"""Teachers: models that turn token ids into logits, in two steps so that logits come in chunks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from softtargets.capture.head import find_head, random_hidden_states
from softtargets.capture.memory import enough_memory, is_out_of_memory
from softtargets.capture.tokenizer import Tokenizer, TransformersTokenizer
from softtargets.errors import InputError, TeacherError
from softtargets.hashes import hash_bytes, hash_file
from softtargets.targets import DType, HeadWeights
from softtargets.urls import is_url, names_path, redacted

_WEIGHTS = ("*.safetensors", "*.bin")
_MODEL_ERRORS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
_CHECKED_TOKENS = 8
_KEPT_KERNELS = "64"
_LEAK = 0.1
"""Most that a changed token may move the logits before it, as a share of how it moves its own.

Of causal models 0 was seen, as rounding alone can move them; of bidirectional ones a third and up.
"""


class Teacher(Protocol):
    """What capture needs of a teacher."""

    @property
    def name(self) -> str:
        """Return what people call it."""
        ...

    @property
    def vocab_size(self) -> int:
        """Return the width of its output, padding included."""
        ...

    @property
    def device(self) -> torch.device:
        """Return where its inputs must be."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer its ids come from."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what decides its logits, for the identity; without loading its weights."""
        ...

    def for_worker(self, worker: int) -> Teacher:
        """Return the teacher for a process of its own, the `worker`th; it must be picklable."""
        ...

    def load(self) -> None:
        """Get ready for the two methods below."""
        ...

    def hidden_states(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states [B, L, D] of windows padded on the right."""
        ...

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, V] of hidden states, in the teacher's number format."""
        ...

    def output_head(self) -> HeadWeights:
        """Return the weights that make these logits; asked for only to be stored."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherConfig:
    """Which model, and how it is run."""

    name: str
    """A directory, or an id on the Hugging Face Hub."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    dtype: DType = "bfloat16"
    attention: str = "sdpa"
    """The attention implementation of transformers: sdpa, eager, flash_attention_2, ..."""
    device: str = "auto"
    """A torch device; auto takes CUDA, then MPS, then the CPU."""
    trust_remote_code: bool = False
    compile: bool = False
    """Whether the decoder runs through torch.compile, whose rounding differs a little."""


class TransformersTeacher:
    """A causal language model of transformers.

    Raises:
        TeacherError: there is no such model, or it cannot be loaded.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self.config = config
        self._directory, self._commit = _locate(config)
        with _loading(config.name, "a causal language model that transformers knows"):
            self._model_config = AutoConfig.from_pretrained(
                self._directory, trust_remote_code=config.trust_remote_code
            )
        self.device = _pick_device(config.device)
        self._is_loaded = False

    def __reduce__(self) -> tuple[Any, ...]:
        return TransformersTeacher, (self.config,)

    def for_worker(self, worker: int) -> TransformersTeacher:
        """Return a teacher for a process of its own, on a CUDA device in turn if it may choose."""
        device = self.config.device
        if device == "auto" and self.device.type == "cuda":
            device = f"cuda:{worker % torch.cuda.device_count()}"
        return TransformersTeacher(replace(self.config, device=device))

    @property
    def name(self) -> str:
        """Return the Hub id, or the directory's name."""
        return self.config.name if self._commit else self._directory.resolve().name

    @property
    def vocab_size(self) -> int:
        """Return the width of the output head, padding included."""
        return int(self._model_config.get_text_config().vocab_size)

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
        weights = sorted(path for kind in _WEIGHTS for path in self._directory.glob(kind))
        if not weights:
            raise TeacherError(
                str(self._directory),
                expected=f"weight files ({', '.join(_WEIGHTS)})",
                found="none",
                next_step="Save the model there with model.save_pretrained(directory).",
            )
        hashes = "\n".join(f"{path.name} {hash_file(path)}" for path in weights)
        teacher: dict[str, Any] = {
            "architecture": (self._model_config.architectures or ["unknown"])[0],
            "weights_sha256": hash_bytes(hashes.encode()),
            "config_sha256": hash_file(self._directory / "config.json"),
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
        with _loading(
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
        self._model: PreTrainedModel = loaded[0]
        missing = sorted(loaded[1]["missing_keys"])
        if missing:
            raise TeacherError(
                self.name,
                expected="weights of the whole model, output head included",
                found=f"none for {', '.join(missing[:3])}",
                next_step="transformers would start them at random: pass the directory of a causal "
                "language model, not of its decoder alone.",
            )
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
                next_step="Leave --compile away.",
            ):
                self.hidden_states(input_ids_1L.expand(2, -1))

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
            with self._running("a head that can be run", next_step="Leave --hidden-states away."):
                own_NV = self.logits(hidden_ND)
            if own_NV.dtype == hidden_ND.dtype and torch.equal(head.logits(hidden_ND), own_NV):
                return head.numpy(self.config.dtype)
        raise TeacherError(
            self.name,
            expected="logits that are hidden @ weight.T + bias, scaled and soft-capped",
            found=f"others from {type(self._model).__name__}",
            next_step="This architecture's head cannot be stored: leave --hidden-states away.",
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
                self.name, expected=expected, found=_first_line(error), next_step=next_step
            ) from error


def _locate(config: TeacherConfig) -> tuple[Path, str | None]:
    """Return the directory of the model's files, and the commit when it is from the Hub."""
    if not config.name or is_url(config.name):
        raise TeacherError(
            f"--teacher {redacted(config.name)}",
            expected="a directory, or an id on the Hugging Face Hub",
            found="a URL" if config.name else "an empty text",
            next_step="Pass the id alone, as org/name, or copy the model to a directory.",
        )
    directory = Path(config.name)
    if directory.is_dir():
        if not (directory / "config.json").is_file():
            raise TeacherError(
                str(directory),
                expected="a model directory of transformers, with a config.json",
                found="none",
                next_step="Pass the directory that model.save_pretrained wrote, or a Hub id.",
            )
        return directory, None
    if names_path(config.name):
        raise TeacherError(
            f"--teacher {config.name}",
            expected="a model directory",
            found="a file" if directory.exists() else "no such directory",
            next_step="Check the path. A model on the Hugging Face Hub is named org/name.",
        )
    try:
        found = Path(snapshot_download(config.name, revision=config.revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise TeacherError(
            f"--teacher {config.name}",
            expected="a directory, or an id on the Hugging Face Hub that can be reached",
            found=_first_line(error),
            next_step="Check the name; without network, pass a directory.",
        ) from error
    return found, found.name


@contextmanager
def _loading(name: str, expected: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise TeacherError(
            f"--teacher {name}",
            expected=expected,
            found=_first_line(error),
            next_step="Check the model directory, or try --attention eager. A model that needs "
            "code of its own also needs --trust-remote-code.",
        ) from error


def _first_line(error: Exception) -> str:
    """Return what an error says first: lines up to one without a colon at its end, or its type."""
    lines = str(error).splitlines()
    end = next((i for i, line in enumerate(lines) if not line.endswith(":")), 0)
    return " ".join(lines[: end + 1]) or type(error).__name__


def _pick_device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            "--device",
            expected="auto, cpu, cuda, cuda:N or mps",
            found=name,
            next_step="Pass one of them.",
        ) from error
    num_cuda = torch.cuda.device_count()
    if (device.type == "cuda" and (device.index or 0) >= num_cuda) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    ):
        raise InputError(
            "--device",
            expected=f"a device that PyTorch finds here; it finds {num_cuda} CUDA devices",
            found=name,
            next_step="Pass --device auto, or install the PyTorch that is made for the device.",
        )
    return device
