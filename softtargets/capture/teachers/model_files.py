"""Which model of transformers is meant: its files, here or on the Hub, and its device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from softtargets.errors import InputError, TeacherError
from softtargets.hashes import hash_bytes, hash_file
from softtargets.targets import DType
from softtargets.texts import shortened
from softtargets.urls import is_url, names_path, redacted

_WEIGHTS = ("*.safetensors", "*.bin")
_QUANTIZATION = (
    "bits",
    "group_size",
    "load_in_4bit",
    "load_in_8bit",
    "bnb_4bit_quant_type",
    "weight_block_size",
)
"""What of a quantization_config people ask for; all of it is in the hash of the configuration."""


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
    tokenizer: str | None = None
    """Directory or id of the model's tokenizer and configuration, of a server that `name` is."""
    requests: int = 16
    """Most requests to a server at a time."""
    patience: int = 300
    """Seconds within which a server must answer, however often it is asked."""
    compile: bool = False
    """Whether the decoder runs through torch.compile, whose rounding differs a little."""
    device_map: str | None = None
    """auto, or a JSON object of modules with their devices; None for one device."""
    offload_folder: str | None = None
    """Where weights go that the map keeps on disk, if they are not read from the model's files."""
    tensor_parallel: int | None = None
    """Processes of torchrun that the matrices of a causal language model are cut over, or devices
    that vLLM cuts them over."""
    engine_arg: tuple[tuple[str, Any], ...] = ()
    """Options of vLLM with their values."""


def locate(config: TeacherConfig, *, with_weights: bool = True) -> tuple[Path, str | None]:
    """Return the directory of the model's files, and the commit when it is from the Hub.

    Args:
        config: names the model.
        with_weights: whether its weights are downloaded.

    Raises:
        TeacherError: there is no such model.
        InputError: another tokenizer is named, or options of an engine.
    """
    _check_own(config)
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
    found = _downloaded(config, None if with_weights else list(_WEIGHTS))
    return found, found.name


def _check_own(config: TeacherConfig) -> None:
    for option, found, where in (
        ("--tokenizer", config.tokenizer, "http://host:port"),
        ("--engine-arg", " ".join(name for name, _ in config.engine_arg), "vllm:DIR_OR_ID"),
    ):
        if found:
            raise InputError(
                option,
                expected="none, as transformers runs the model with its own tokenizer",
                found=found,
                next_step=f"Omit it. It is for --teacher {where}.",
            )


def _downloaded(config: TeacherConfig, ignored: list[str] | None) -> Path:
    """Return the directory of a model of the Hub, without the files of some patterns."""
    try:
        return Path(
            snapshot_download(config.name, revision=config.revision, ignore_patterns=ignored)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise TeacherError(
            f"--teacher {config.name}",
            expected="a directory, or an id on the Hugging Face Hub that can be reached",
            found=first_line(error),
            next_step="Check the name; without network, pass a directory.",
        ) from error


def architecture_of(config: TeacherConfig) -> str | None:
    """Return the class of transformers that a model was saved as, or None if it does not say.

    Raises:
        TeacherError: there is no such model.
    """
    from transformers import AutoConfig

    directory, _ = locate(config)
    with loading(config.name, "a model that transformers knows"):
        found = AutoConfig.from_pretrained(
            directory, trust_remote_code=config.trust_remote_code
        ).architectures
    return found[0] if found else None


def weight_files(directory: Path) -> list[Path]:
    """Return the files with a model's weights.

    Raises:
        TeacherError: there are none.
    """
    weights = sorted(path for kind in _WEIGHTS for path in directory.glob(kind))
    if not weights:
        raise TeacherError(
            str(directory),
            expected=f"weight files ({', '.join(_WEIGHTS)})",
            found="none",
            next_step="Save the model there with model.save_pretrained(directory).",
        )
    return weights


def hash_model(directory: Path) -> dict[str, Any]:
    """Return the hashes of a model's weights and configuration, as a store's identity has them.

    Of quantised weights it also says how they were quantised.

    Raises:
        TeacherError: there are no weight files.
    """
    hashes = "\n".join(f"{path.name} {hash_file(path)}" for path in weight_files(directory))
    described = {
        "weights_sha256": hash_bytes(hashes.encode()),
        "config_sha256": hash_file(directory / "config.json"),
    }
    quantization = quantization_of(directory)
    return described if quantization is None else described | {"quantization": quantization}


def quantization_of(directory: Path) -> dict[str, Any] | None:
    """Return how a model's weights are quantised by its configuration; None if they are not.

    Raises:
        TeacherError: the configuration does not say which method it is.
    """
    found = json.loads((directory / "config.json").read_text()).get("quantization_config")
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else None
    if not isinstance(method, str):
        raise TeacherError(
            str(directory / "config.json"),
            expected="a quantization_config with its quant_method",
            found=shortened(f"{found}"),
            next_step="Save the model again with the library that quantised it.",
        )
    kept = {name: found[name] for name in _QUANTIZATION if found.get(name) is not None}
    return {"method": method, **kept}


@contextmanager
def loading(name: str, expected: str) -> Iterator[None]:
    """Report what transformers cannot load as what is wrong with a teacher.

    Raises:
        TeacherError: it cannot be loaded.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise TeacherError(
            f"--teacher {name}",
            expected=expected,
            found=first_line(error),
            next_step="Check the model directory, or try --attention eager. A model that needs "
            "code of its own also needs --trust-remote-code.",
        ) from error


def first_line(error: Exception) -> str:
    """Return what an error says first: lines up to one without a colon at its end, or its type."""
    lines = str(error).splitlines()
    end = next((i for i, line in enumerate(lines) if not line.endswith(":")), 0)
    return " ".join(lines[: end + 1]) or type(error).__name__


def pick_device(name: str, option: str = "--device") -> torch.device:
    """Return a device by its name; auto takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            option,
            expected="auto, cpu, cuda, cuda:N or mps",
            found=name,
            next_step="Pass one of them.",
        ) from error
    num_cuda = torch.cuda.device_count()
    if (device.type == "cuda" and (device.index or 0) >= num_cuda) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    ):
        raise InputError(
            option,
            expected=f"a device that PyTorch finds here; it finds {num_cuda} CUDA devices",
            found=name,
            next_step=f"Pass {option} auto, or install the PyTorch that is made for the device.",
        )
    return device
