"""The wire format of vLLM's `/v1/completions` with `prompt_logprobs`.

The answer has a dict for each token of the prompt, null for the first: by the id as a text, its
log-probability and its rank from 1. The token itself is always in it, beside the k likeliest if it
is none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from softtargets.capture.servers.prompt_lists import (
    PromptLists,
    Wire,
    WrongAnswerError,
    members,
    numbers,
    whole,
)


class VllmWire(Wire):
    """How vLLM is asked, and what it answers."""

    kind = "vLLM"
    path = "/v1/completions"
    tells_ranks = True

    def body(self, model: str, prompt: Sequence[int] | str, k: int) -> dict[str, Any]:
        """Return the request; one token is generated, for vLLM takes no fewer."""
        return {
            "model": model,
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "prompt_logprobs": k,
            "max_tokens": 1,
            # A model's generation_config.json may have others.
            "temperature": 1.0,
            "repetition_penalty": 1.0,
            "stream": False,
        }

    def lists(self, answer: dict[str, Any], ids: Sequence[int], k: int) -> PromptLists:
        """Return the lists of an answer."""
        rows = _rows(answer)
        if len(rows) != len(ids):
            raise WrongAnswerError(
                f"a list for each of {len(ids)} tokens, null for the first", f"{len(rows)} lists"
            )
        found = [_row(row, label, k) for row, label in zip(rows[1:], ids[1:], strict=True)]
        num = len(found)
        listed = [entry for row, _ in found for entry in row]
        labels = [label for _, label in found]
        return PromptLists(
            ids_RK=whole([id_ for id_, _ in listed], "ids").reshape(num, k),
            logprobs_RK=numbers([one.get("logprob") for _, one in listed]).reshape(num, k),
            label_logprobs_R=numbers([one.get("logprob") for one in labels]),
            label_ranks_R=whole([one.get("rank") for one in labels], "ranks") - np.int32(1),
        )

    def ids(self, answer: dict[str, Any]) -> list[int | None]:
        """Return the ids of a text's tokens but the first, which the answer's dicts name first."""
        return [None, *(next(iter(_entries(row)), None) for row in _rows(answer)[1:])]

    def model(self, answer: dict[str, Any]) -> str | None:
        """Return the name that the model is served by."""
        found = answer.get("model")
        return found if isinstance(found, str) else None


def _rows(answer: dict[str, Any]) -> list[Any]:
    choices = members(answer, "choices", list)
    if len(choices) != 1:
        raise WrongAnswerError("one choice", str(len(choices)))
    rows: list[Any] = members(choices[0], "prompt_logprobs", list, "a choice")
    if not rows or rows[0] is not None:
        raise WrongAnswerError(
            "null for the first token, which nothing precedes", "a list" if rows else "no lists"
        )
    return rows


def _row(
    row: Any, label: int, k: int
) -> tuple[list[tuple[int, Mapping[str, Any]]], Mapping[str, Any]]:
    """Return the k entries of a list, and the entry of the token that follows."""
    entries = _entries(row)
    own = entries.get(label)
    if own is None:
        raise WrongAnswerError(
            f"a list with the token that follows, {label}",
            f"ids {', '.join(str(one) for one in list(entries)[:5])}, as of other positions or of "
            "another tokenizer",
        )
    if type(rank := own.get("rank")) is not int:
        raise WrongAnswerError("ranks that are whole numbers", type(rank).__name__)
    # Of what is no number, the rank is 0.
    if not 1 <= rank <= k:
        del entries[label]
    if len(entries) != k:
        raise WrongAnswerError(
            f"lists of {k} entries beside a token that is none of them", f"one of {len(entries)}"
        )
    return list(entries.items()), own


def _entries(row: Any) -> dict[int, Mapping[str, Any]]:
    """Return the entries of a list by their ids."""
    if not isinstance(row, dict) or not all(isinstance(one, dict) for one in row.values()):
        raise WrongAnswerError("a dict of dicts by id for each token", type(row).__name__)
    try:
        entries = {int(id_): one for id_, one in row.items()}
    except ValueError:
        raise WrongAnswerError("ids that are whole numbers", str(list(row)[:5])) from None
    if [str(one) for one in entries] != list(row):
        raise WrongAnswerError("ids that differ, in digits", str(list(row)[:5]))
    return entries
