"""What a unit of prompts takes: the teacher answers them, and its record is put."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from softtargets.capture.teachers.taken_apart import TakenApartTeacher
from softtargets.capture.units import load_quietly
from softtargets.engines import Done, Event, Scored
from softtargets.generation.generate_config import GenerateConfig
from softtargets.generation.generation_files import GenerationFiles
from softtargets.generation.hypotheses import Hypothesis, Hypothesizer
from softtargets.generation.nearest import nearest


@dataclass(frozen=True, slots=True)
class AnsweredUnit:
    """A unit whose answers are recorded."""

    unit: int
    num_prompts: int
    num_tokens: int
    """Of its answers that are kept."""


@dataclass(kw_only=True)
class AnswerJob:
    """Answers the planned units of a generation and writes their records: its `Job`."""

    teacher: TakenApartTeacher
    config: GenerateConfig
    files: GenerationFiles
    _hypothesizer: Hypothesizer | None = field(default=None, init=False)

    @property
    def where(self) -> str:
        """Return what messages call the file of answers."""
        return self.files.where

    @property
    def modules(self) -> Sequence[str]:
        """Return what the teacher imports when it loads."""
        return self.teacher.modules

    def for_worker(self, worker: int) -> AnswerJob:
        """Return the job with the teacher that a worker loads."""
        return replace(self, teacher=self.teacher.for_worker(worker))

    def working(self) -> AbstractContextManager[object]:
        """Keep others from beginning in the directory of work, and the loading from being shown."""
        load_quietly()
        return self.files.working()

    def run(self, units: Iterable[int]) -> Generator[Event]:
        """Load the teacher when it is first needed, and answer units.

        Raises:
            TeacherError: it cannot be loaded, a batch does not fit its device, or it is broken.
            StoreError: the system refused to write.
        """
        if self._hypothesizer is None:
            self.teacher.load()
            self._hypothesizer = Hypothesizer(self.teacher, self.config)
        for unit in units:
            yield from self._answer(unit, self._hypothesizer)

    def recorded(self, unit: int) -> AnsweredUnit | None:
        """Return how much a unit that is done has, or None."""
        record = self.files.read_record(unit)
        if record is None:
            return None
        num_tokens = record["counts"].get("tokens", 0)
        return AnsweredUnit(unit, len(self.files.prompts(unit)), num_tokens)

    def _answer(self, unit: int, hypothesizer: Hypothesizer) -> Iterator[Event]:
        prompts = self.files.prompts(unit)
        found: dict[int, list[Hypothesis]] = {}
        ids = [np.array(one["ids"], np.int32) for one in prompts]
        for place, hypotheses in hypothesizer.run(ids):
            found[place] = hypotheses
            yield Scored(unit, 1, sum(len(one.ids_T) for one in hypotheses))
        counts: Counter[str] = Counter()
        answers = [
            record
            for place, prompt in enumerate(prompts)
            for record in _records(self.config, prompt, found[place], counts)
        ]
        self.files.write_record(unit, {"answers": answers, "counts": counts})
        yield Done(AnsweredUnit(unit, len(prompts), counts["tokens"]))


def _records(
    config: GenerateConfig,
    prompt: dict[str, Any],
    hypotheses: list[Hypothesis],
    counts: Counter[str],
) -> Iterator[dict[str, Any]]:
    """Yield the records of the hypotheses of a prompt that are kept, and count the others."""
    if config.nearest_reference:
        ranked = nearest(hypotheses, prompt["reference"])
    else:
        ranked = [(one, None) for one in hypotheses]
    for one, bleu in ranked[: config.keep]:
        counts["unfinished"] += not one.is_finished
        if not one.text.strip():
            counts["empty"] += 1
            continue
        if not one.is_finished and config.unfinished == "drop":
            continue
        counts["answers"] += 1
        counts["tokens"] += len(one.ids_T)
        yield {
            **config.prompting.record(prompt["record"], one.text),
            "logprob": round(one.logprob, 4),
            "num_tokens": len(one.ids_T),
            "finished": one.is_finished,
        } | ({} if bleu is None else {"bleu": round(bleu, 2)})
