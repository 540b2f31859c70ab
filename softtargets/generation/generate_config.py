"""What a teacher is to write, and how it searches for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from softtargets.capture.build_config import AnyCorpus
from softtargets.errors import InputError
from softtargets.generation.prompting import Prompting


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig:
    """What to generate. All but `output` and `workers` decide the file's content.

    Raises:
        InputError: an option is out of range.
    """

    corpus: AnyCorpus
    output: Path
    """The file of records, one on each line."""
    prompting: Prompting
    """How the teacher's family is asked."""
    num_beams: int = 5
    """Hypotheses that beam search follows; 1 takes the likeliest token at each step."""
    keep: int = 1
    """How many of them are written, likeliest first."""
    max_new_tokens: int = 256
    """Most tokens of an answer; one that is not at its end by then is unfinished."""
    length_penalty: float = 1.0
    """A hypothesis counts by its log-probability over its length to this power."""
    nearest_reference: bool = False
    """Whether the hypotheses that are kept are those nearest to the reference."""
    unfinished: Literal["keep", "drop"] = "keep"
    """What becomes of an answer that reached its limit."""
    batch_tokens: int = 4096
    """Most tokens of all hypotheses' prompts in a batch."""
    unit_records: int = 512
    """Records of a unit of work: what a crash can cost."""
    workers: int = 1
    """Processes that answer, each with a teacher of its own."""

    def __post_init__(self) -> None:
        for option, value, least, most in (
            ("--num-beams", self.num_beams, 1, None),
            ("--keep", self.keep, 1, self.num_beams),
            ("--max-new-tokens", self.max_new_tokens, 1, None),
            ("--batch-tokens", self.batch_tokens, 1, None),
            ("--unit-records", self.unit_records, 1, None),
            ("--workers", self.workers, 1, None),
        ):
            if value < least or (most is not None and value > most):
                raise InputError(
                    option,
                    expected=f"at least {least}"
                    + (f", and at most the {most} of --num-beams" if most is not None else ""),
                    found=str(value),
                    next_step="Omit it for the default.",
                )
        if self.nearest_reference and self.num_beams == 1:
            raise InputError(
                "--nearest-reference",
                expected="several hypotheses to choose from",
                found="--num-beams 1",
                next_step="Pass --num-beams 5, or omit --nearest-reference.",
            )

    def describe(self) -> dict[str, Any]:
        """Return what decides the file's content beside teacher and corpus."""
        return {
            "num_beams": self.num_beams,
            "keep": self.keep,
            "nearest_reference": self.nearest_reference,
            "unfinished": self.unfinished,
            "batch_tokens": self.batch_tokens,
            "unit_records": self.unit_records,
            "prompting": self.prompting.describe(),
        }
