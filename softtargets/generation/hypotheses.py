"""Prompts to hypotheses: what beam search finds, and how likely the teacher finds it.

Log-probabilities are of a pass over the finished text, not of the search: they are those of the
model as it is, whatever the search did to them, and no search keeps its logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from softtargets.capture.batches import plan_batches
from softtargets.capture.keep.logit_chunks import COMPARING
from softtargets.capture.memory import enough_memory
from softtargets.capture.teachers.taken_apart import TakenApartTeacher
from softtargets.errors import TeacherError
from softtargets.generation.generate_config import GenerateConfig
from softtargets.targets import Int32


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """What a teacher wrote after a prompt."""

    ids_T: Int32
    """Its tokens, with the one that ends it."""
    text: str
    logprob: float
    """Of all its tokens together, in nats."""
    is_finished: bool
    """Whether it ended by itself."""


def generation_settings(teacher: TakenApartTeacher, config: GenerateConfig) -> dict[str, Any]:
    """Return the settings of transformers' generation, resolved: the model's own, and ours."""
    own: dict[str, Any] = {
        "do_sample": False,
        "num_beams": config.num_beams,
        "num_return_sequences": config.num_beams if config.nearest_reference else config.keep,
        "max_new_tokens": config.max_new_tokens,
        "length_penalty": config.length_penalty,
        # An end that is forced at the limit would look like one that the model chose.
        "forced_eos_token_id": None,
        **config.prompting.settings(teacher),
    }
    return teacher.generation_settings(own)


class Hypothesizer:
    """Has a teacher write hypotheses, in batches of prompts of like length.

    Args:
        teacher: is loaded.
        config: of the generation.
    """

    def __init__(self, teacher: TakenApartTeacher, config: GenerateConfig) -> None:
        self._teacher, self._config = teacher, config
        self._settings = generation_settings(teacher, config)
        ends = self._settings["eos_token_id"]
        self._ends = np.array(ends if isinstance(ends, list) else [ends])

    def run(self, prompts: Sequence[Int32]) -> Iterator[tuple[int, list[Hypothesis]]]:
        """Yield the place of each prompt and its hypotheses, likeliest first, batch by batch.

        Raises:
            TeacherError: a batch does not fit the device's memory, or logits are no numbers.
        """
        most = max(1, self._config.batch_tokens // self._config.num_beams)
        for batch in plan_batches([len(one) for one in prompts], most):
            members = [prompts[place] for place in batch]
            where, next_step = f"{len(members)} prompts", "Pass a smaller --batch-tokens."
            with enough_memory(where, "a batch of them", self._teacher.device, next_step):
                found = self._batch(members)
            yield from zip(batch, found, strict=True)

    def _batch(self, prompts: Sequence[Int32]) -> list[list[Hypothesis]]:
        prompting = self._config.prompting
        inputs = prompting.inputs(self._teacher, prompts)
        written_NL = self._teacher.generate(inputs, self._settings)
        answers_NT = written_NL[:, prompting.num_before(inputs) :].cpu().numpy()
        answers = [self._ended(ids_T) for ids_T in answers_NT]
        number = len(answers) // len(prompts)
        read = [prompts[place // number] for place in range(len(answers))]
        texts = prompting.texts(self._teacher, read, [ids_T for ids_T, _ in answers])
        logprobs = self._logprobs(read, [one for one, _ in answers])
        found = [
            Hypothesis(ids_T=ids_T, text=text, logprob=logprob, is_finished=is_finished)
            for (ids_T, is_finished), text, logprob in zip(answers, texts, logprobs, strict=True)
        ]
        return [found[start : start + number] for start in range(0, len(found), number)]

    def _ended(self, ids_T: Int32) -> tuple[Int32, bool]:
        """Return an answer up to the token that ends it, and whether there is one."""
        is_end_T = np.isin(ids_T, self._ends)
        if not is_end_T.any():
            return ids_T.astype(np.int32), False
        return ids_T[: int(is_end_T.argmax()) + 1].astype(np.int32), True

    def _logprobs(self, prompts: Sequence[Int32], answers: Sequence[Int32]) -> list[float]:
        """Return the teacher's log-probability of each answer after its prompt."""
        segment = self._config.prompting.segment
        segments = [
            segment(self._teacher, prompt_M, answer_T)
            for prompt_M, answer_T in zip(prompts, answers, strict=True)
        ]
        labels_N = torch.from_numpy(np.concatenate(answers)).long()
        hidden_ND = self._teacher.read(segments)
        logprobs_N = torch.empty(len(labels_N), dtype=torch.float64)
        for rows, logits_CV in self._teacher.chunks(hidden_ND, COMPARING):
            logits_CV = logits_CV.cpu().double()
            own_C = logits_CV.gather(1, labels_N[rows, None])[:, 0]
            logprobs_N[rows] = own_C - logits_CV.logsumexp(dim=1)
        if not logprobs_N.isfinite().all():
            raise TeacherError(
                self._teacher.name,
                expected="finite log-probabilities of what it wrote",
                found="others",
                next_step="Pass --dtype float32.",
            )
        return [float(one.sum()) for one in logprobs_N.split([len(one) for one in answers])]
