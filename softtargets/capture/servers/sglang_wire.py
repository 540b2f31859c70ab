"""The wire format of SGLang's `/generate` with `return_logprob`.

`meta_info` has a triple of log-probability, id and text for each token of the prompt, and lists of
such triples of the likeliest; the first of each is null. Newer servers send the lists as two arrays
in base64 where they are asked to. The rank of a token is not told.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np

from softtargets.capture.servers.prompt_lists import (
    PromptLists,
    Wire,
    WrongAnswerError,
    floored,
    members,
    numbers,
    whole,
)
from softtargets.targets import Float32, Int32

_LISTS = "input_top_logprobs"
_FORMATS = {"val": "<f4", "idx": "<i4"}


class SglangWire(Wire):
    """How SGLang is asked, and what it answers."""

    kind = "SGLang"
    path = "/generate"
    tells_ranks = False

    def body(self, model: str, prompt: Sequence[int] | str, k: int) -> dict[str, Any]:
        """Return the request; a server has one model, so its name is not sent."""
        del model
        is_text = isinstance(prompt, str)
        return {
            **({"text": prompt} if is_text else {"input_ids": list(prompt)}),
            "sampling_params": {"max_new_tokens": 1, "temperature": 1.0},
            "return_logprob": True,
            # By default nothing of the prompt is told.
            "logprob_start_len": 0,
            "top_logprobs_num": k,
            **({} if is_text else {f"return_flat_raw_top_logprobs{one}": True for one in _FLAT}),
        }

    def lists(self, answer: dict[str, Any], ids: Sequence[int], k: int) -> PromptLists:
        """Return the lists of an answer."""
        meta, found = _meta(answer), self.ids(answer)
        if found != list(ids):
            raise WrongAnswerError(
                f"log-probabilities of the {len(ids)} tokens of the prompt",
                f"those of {len(found)} tokens, or of others",
            )
        is_flat = f"{_LISTS}_val_flat_b64" in meta
        ids_RK, logprobs_RK = (
            _unpacked(meta, len(ids), k) if is_flat else _nested(meta, len(ids), k)
        )
        labels = meta["input_token_logprobs"][1:]
        label_logprobs_R = numbers([one[0] for one in labels])
        return PromptLists(
            ids_RK=ids_RK,
            logprobs_RK=logprobs_RK,
            label_logprobs_R=label_logprobs_R,
            label_ranks_R=None,
        )

    def ids(self, answer: dict[str, Any]) -> list[int | None]:
        """Return the ids of the prompt's tokens."""
        triples = _triples(members(_meta(answer), "input_token_logprobs", list, "meta_info"))
        found: list[int | None] = whole([one[1] for one in triples], "ids").tolist()
        return found

    def model(self, answer: dict[str, Any]) -> str | None:
        """Return None: an answer does not say who gave it."""
        del answer
        return None


_FLAT = ("", "_b64")


def _meta(answer: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = members(answer, "meta_info", dict)
    return found


def _triples(rows: Any) -> list[Any]:
    if not isinstance(rows, list) or not all(
        isinstance(one, list) and len(one) == 3 for one in rows
    ):
        raise WrongAnswerError("triples of log-probability, id and text", type(rows).__name__)
    return rows


def _nested(meta: dict[str, Any], num_tokens: int, k: int) -> tuple[Int32, Float32]:
    """Return ids and log-probabilities of lists of triples."""
    rows = members(meta, _LISTS, list, "meta_info")
    if len(rows) != num_tokens or rows[0]:
        raise WrongAnswerError(
            f"a list for each of {num_tokens} tokens, null for the first",
            f"{len(rows)} lists" if not rows or not rows[0] else "a list for the first",
        )
    triples = [_triples(row) for row in rows[1:]]
    lengths = {len(row) for row in triples} - {k}
    if lengths:
        raise WrongAnswerError(f"lists of {k} entries", f"one of {min(lengths)}")
    entries = [one for row in triples for one in row]
    shape = (num_tokens - 1, k)
    ids_RK = whole([one[1] for one in entries], "ids").reshape(shape)
    return ids_RK, numbers([one[0] for one in entries]).reshape(shape)


def _unpacked(meta: dict[str, Any], num_tokens: int, k: int) -> tuple[Int32, Float32]:
    """Return ids and log-probabilities of two arrays in base64."""
    if meta.get(f"{_LISTS}_shape") != [num_tokens, k] or meta.get(f"{_LISTS}_null_prefix") != 1:
        raise WrongAnswerError(
            f"lists of {k} entries for each of {num_tokens} tokens, none for the first",
            f"shape {meta.get(f'{_LISTS}_shape')}, {meta.get(f'{_LISTS}_null_prefix')} without",
        )
    arrays = []
    for name, dtype in _FORMATS.items():
        text = members(meta, f"{_LISTS}_{name}_flat_b64", str, "meta_info")
        said = meta.get(f"{_LISTS}_{name}_flat_b64_dtype")
        if said != np.dtype(dtype).name:
            raise WrongAnswerError(f"{np.dtype(dtype).name} in base64", str(said))
        try:
            content = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise WrongAnswerError("arrays in base64", str(error)) from None
        if len(content) != 4 * (num_tokens - 1) * k:
            raise WrongAnswerError(f"{4 * (num_tokens - 1) * k} bytes in base64", str(len(content)))
        arrays.append(np.frombuffer(content, dtype).reshape(num_tokens - 1, k))
    logprobs_RK, ids_RK = arrays
    return ids_RK.astype(np.int32), floored(logprobs_RK)
