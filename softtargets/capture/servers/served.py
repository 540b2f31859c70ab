"""A teacher behind a server, which lists its likeliest ids at temperature 1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from softtargets.capture.abilities import check_abilities
from softtargets.capture.keep.listed import select_listed
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import Keep
from softtargets.capture.segments import Segment, check_ids, name_segments
from softtargets.capture.servers.calibration_text import NUM_ENTRIES, TEXT, Calibration, check_text
from softtargets.capture.servers.prompt_lists import (
    PromptLists,
    WrongAnswerError,
    check_lists,
    likelier,
)
from softtargets.capture.servers.server_client import RefusedError, ServerClient
from softtargets.capture.servers.server_kinds import recognise
from softtargets.capture.teacher import Teacher
from softtargets.capture.teacher_registry import check_used
from softtargets.capture.teacher_tokenizer import TransformersTokenizer
from softtargets.capture.teachers.model_files import TeacherConfig, loading, locate
from softtargets.errors import InputError, ServerError, TeacherError
from softtargets.hashes import hash_bytes, hash_file

_USED = frozenset({"tokenizer", "requests", "patience", "revision", "dtype", "trust_remote_code"})
"""Options of a teacher that mean something to a server. What its number format is, only people
know, who say it by dtype."""


class ServerTeacher(Teacher):
    """A model that a server of vLLM or SGLang runs.

    Args:
        config: the server's URL is its name, and it names the model's tokenizer.

    Raises:
        InputError: no tokenizer is named, an option means nothing to a server, or what asks servers
            is not installed.
        TeacherError: the server does not answer, or is none that can be asked.
    """

    modules = ("httpx",)

    def __init__(self, config: TeacherConfig) -> None:
        from transformers import AutoConfig

        check_used(config, _USED)
        self._config = config
        self._client = ServerClient(config.name, config.requests, config.patience)
        self._directory = _tokenizer_directory(config)
        with loading(str(self._directory), "a model that transformers knows"):
            self._model_config = AutoConfig.from_pretrained(
                self._directory, trust_remote_code=config.trust_remote_code
            )
        self.vocab_size = int(self._model_config.get_text_config().vocab_size)
        self._wire, self._model = recognise(self._client)
        self._client.has_answered()
        self.name = self._model.name
        self.longest_sequence = self._model.longest_prompt
        self._calibration: Calibration | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._config,)

    @cached_property
    def tokenizer(self) -> TransformersTokenizer:
        """Return the tokenizer that was named; `load` compares it with the server's."""
        return TransformersTokenizer(
            self._directory, trust_remote_code=self._config.trust_remote_code
        )

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._client.num_requests, thread_name_prefix="softtargets-ask")

    def describe(self) -> dict[str, Any]:
        """Return what the server calls itself and its model: it does not show its weights."""
        said = {"server": self._wire.kind, "model": self._model.name}
        return {
            "architecture": type(self._model_config).__name__.removesuffix("Config"),
            "weights_sha256": hash_bytes(json.dumps(said, sort_keys=True).encode()),
            "config_sha256": hash_file(self._directory / "config.json"),
            "revision": None,
            "dtype": self._config.dtype,
            "attention": self._wire.kind,
            "name": f"{self._model.name} behind {self._wire.kind}",
        }

    def check(self, keep: Keep) -> None:
        """Check that the server lists what is to be kept: it is asked for as many entries.

        Raises:
            InputError: it does not; the message names the option.
        """
        super().check(keep)
        if keep.label_logits and not self._wire.tells_ranks:
            raise InputError(
                "--label-logits",
                expected="none, as servers of this kind do not tell the ranks of labels",
                found=f"the option, with a server of {self._wire.kind}",
                next_step="Pass --no-label-logits.",
            )
        largest_k = self._largest_k(keep.selection.k)
        check_abilities(keep, replace(self.abilities, largest_k=largest_k), self.name)

    def load(self) -> None:
        """Check the server's answers about a short text, by which later ones are checked too.

        Raises:
            TeacherError: it is another model than the tokenizer's, or its answers are none of such
                a teacher.
        """
        own_ids = self.tokenizer.encode_batch([TEXT])[0]
        try:
            found = Calibration.of(self._ask_short, own_ids, self.vocab_size)
            body = self._wire.body(self._model.name, TEXT, NUM_ENTRIES)
            check_text(own_ids, self._wire.ids(self._client.ask(self._wire.path, body)))
        except WrongAnswerError as error:
            raise self._client.wrong(error.expected, error.found) from None
        self._calibration = found

    def capture(self, segments: Sequence[Segment], keep: Keep) -> Selected:
        """Return the targets of segments, which are asked for at the same time.

        Before they are returned, the server shows by the calibration text that it is the same.
        """
        check_ids(segments, self.vocab_size, self.name)
        k = keep.selection.k
        wanted = [one for one in segments if len(one.positions_T)]
        lists = self._ask_all([_prompt(one) for one in wanted], k, wanted)
        self._check_same()
        return _selected(wanted, lists, keep)

    def _largest_k(self, k: int) -> int:
        """Return how many entries the server lists, `k` at most."""
        if self._lists(k):
            return k
        most, too_many = 0, k
        while too_many - most > 1:
            middle = (most + too_many) // 2
            most, too_many = (middle, too_many) if self._lists(middle) else (most, middle)
        if not most:
            self._ask([0, 0], 1)
        return most

    def _lists(self, k: int) -> bool:
        """Return whether the server lists so many entries."""
        try:
            self._ask([0, 0], k)
        except (RefusedError, WrongAnswerError):
            return False
        return True

    def _ask(self, prompt: Sequence[int], k: int) -> PromptLists:
        """Return the lists of a prompt.

        Raises:
            ServerError: the server is gone, or has another model.
            TeacherError: it refuses the prompt.
            WrongAnswerError: its answer is none.
        """
        answer = self._client.ask(self._wire.path, self._wire.body(self._model.name, prompt, k))
        name = self._wire.model(answer)
        if name not in (None, self._model.name):
            raise self._another(f"the model {self._model.name}", f"an answer of {name}")
        lists = self._wire.lists(answer, prompt, k)
        check_lists(lists, self.vocab_size)
        return lists

    def _ask_short(self, prompts: Sequence[Sequence[int]]) -> list[PromptLists]:
        return list(self._threads.map(lambda prompt: self._ask(prompt, NUM_ENTRIES), prompts))

    def _ask_all(
        self, prompts: Sequence[Sequence[int]], k: int, segments: Sequence[Segment]
    ) -> list[PromptLists]:
        """Return the lists of all prompts, as many of which are asked for at a time as may be."""

        def ask(prompt: Sequence[int], segment: Segment) -> PromptLists:
            try:
                return self._ask(prompt, k)
            except WrongAnswerError as error:
                wrong = self._client.wrong(error.expected, error.found)
            except ServerError:
                raise
            except TeacherError as error:
                wrong = error
            raise wrong.restated(TeacherError, f"{wrong.where}, {name_segments([segment])}")

        futures = list(map(self._threads.submit, [ask] * len(prompts), prompts, segments))
        try:
            return [one.result() for one in futures]
        except (KeyboardInterrupt, SystemExit):
            self._client.stop()
            raise
        finally:
            for one in futures:
                one.cancel()
            wait(futures)

    def _check_same(self) -> None:
        """Check that the server still is the one that was loaded.

        Raises:
            ServerError: it is another.
        """
        assert self._calibration is not None, "load the teacher first"
        try:
            self._calibration.check(self._ask(self._calibration.ids, NUM_ENTRIES))
        except (WrongAnswerError, RefusedError) as error:
            raise self._another(error.expected, error.found) from None

    def _another(self, expected: str, found: str) -> ServerError:
        return ServerError(
            self._client.url,
            expected=expected,
            found=found,
            next_step="Start the server with the model that the build began with, and run the same "
            "command again. What is committed stays.",
        )


def _tokenizer_directory(config: TeacherConfig) -> Any:
    if config.tokenizer is None:
        raise InputError(
            "--tokenizer",
            expected="the directory or the id of the server's model, for its tokenizer",
            found="nothing",
            next_step="Pass it. Its weights are not read.",
        )
    directory, _ = locate(
        replace(config, name=config.tokenizer, tokenizer=None), with_weights=False
    )
    return directory


def _prompt(segment: Segment) -> list[int]:
    """Return the tokens up to the last target, and its label: what follows changes no target.

    Raises:
        TeacherError: a label is not what follows in the segment.
    """
    positions_T, labels_T = segment.positions_T, segment.label_ids_T
    prompt_L = np.append(segment.input_ids_L[: positions_T[-1] + 1], labels_T[-1])
    if (prompt_L[positions_T + 1] != labels_T).any():
        raise TeacherError(
            name_segments([segment]),
            expected="labels that are the tokens which follow, of a teacher behind a server",
            found="others",
            next_step="Pass the directory of the model with --teacher.",
        )
    found: list[int] = prompt_L.tolist()
    return found


def _selected(segments: Sequence[Segment], lists: Sequence[PromptLists], keep: Keep) -> Selected:
    """Return the targets of segments by the lists of their prompts."""
    rows = [segment.positions_T for segment in segments]

    def gather(name: str) -> np.ndarray:
        parts = [getattr(one, name)[own] for one, own in zip(lists, rows, strict=True)]
        return np.concatenate(parts)

    if not segments:
        empty_0K = torch.empty((0, keep.selection.k))
        return select_listed(empty_0K.int(), empty_0K)
    ids_NK, logprobs_NK = gather("ids_RK"), gather("logprobs_RK")
    if not keep.label_logits:
        return select_listed(torch.from_numpy(ids_NK), torch.from_numpy(logprobs_NK))
    label_logprobs_N, label_ranks_N = gather("label_logprobs_R"), gather("label_ranks_R")
    # The caller looks for what is no number among the entries.
    logprobs_NK[np.isnan(label_logprobs_N) | (label_logprobs_N == np.inf)] = np.nan
    return select_listed(
        torch.from_numpy(ids_NK),
        torch.from_numpy(logprobs_NK),
        label_logprobs_N=torch.from_numpy(label_logprobs_N),
        label_ranks_N=torch.from_numpy(likelier(logprobs_NK, label_logprobs_N, label_ranks_N)),
    )
