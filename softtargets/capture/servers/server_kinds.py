"""Which server answers: vLLM and SGLang are asked, others are refused with the reason."""

from __future__ import annotations

from typing import Any

from softtargets.capture.servers.prompt_lists import ServedModel, Wire
from softtargets.capture.servers.server_client import ServerClient
from softtargets.capture.servers.sglang_wire import SglangWire
from softtargets.capture.servers.vllm_wire import VllmWire
from softtargets.errors import TeacherError

_OWNERS: dict[str, type[Wire]] = {"vllm": VllmWire, "sglang": SglangWire}
"""Who owns the models of a server, by its own words."""
_LLAMA_CPP = (
    "llama.cpp's server, which tells no log-probabilities of a prompt",
    "Pass --teacher llama:FILE, which runs a GGUF file in this process. Or serve the model with "
    "vLLM.",
)
_TGI = (
    "text-generation-inference, which lists no likeliest ids of a prompt",
    "Serve the model with vLLM or SGLang.",
)


def recognise(client: ServerClient) -> tuple[Wire, ServedModel]:
    """Return how a server is asked, and its model.

    Raises:
        ServerError: it does not answer.
        TeacherError: it is no server that can be asked.
    """
    listed = client.find("/v1/models") or {}
    models = [one for one in listed.get("data") or () if isinstance(one, dict)]
    # Adapters have a parent.
    base = next((one for one in models if one.get("parent") is None), {})
    if (kind := _OWNERS.get(str(base.get("owned_by")))) is not None:
        return kind(), _served(client, base)
    info = client.find("/get_model_info") or client.find("/model_info") or {}
    if isinstance(info.get("model_path"), str):
        return SglangWire(), _served(client, {"id": info["model_path"], **base})
    raise _unknown(client, base)


def _served(client: ServerClient, model: dict[str, Any]) -> ServedModel:
    name, longest = model.get("id"), model.get("max_model_len")
    if not isinstance(name, str) or not name:
        raise client.wrong("a model with an id at /v1/models", repr(name))
    if longest is not None and (type(longest) is not int or longest < 2):
        raise client.wrong("a max_model_len of two tokens or more", repr(longest))
    # One token is generated, which needs room.
    return ServedModel(name=name, longest_prompt=None if longest is None else longest - 1)


def _unknown(client: ServerClient, model: dict[str, Any]) -> TeacherError:
    """Return the error of a server that cannot be asked, by the endpoints that it has."""
    found, next_step = (
        "another one, or none",
        ("Check the host and the port. Services that hide which server they run cannot be asked."),
    )
    if model.get("owned_by") == "llamacpp" or _has(client, "/props", "default_generation_settings"):
        found, next_step = _LLAMA_CPP
    elif _has(client, "/info", "router") or _has(client, "/info", "model_sha"):
        found, next_step = _TGI
    elif "owned_by" in model:
        found = f"one whose model is owned by {model['owned_by']}"
    return TeacherError(
        f"--teacher {client.url}",
        expected="a server of vLLM or SGLang",
        found=found,
        next_step=next_step,
    )


def _has(client: ServerClient, path: str, member: str) -> bool:
    return member in (client.find(path) or {})
