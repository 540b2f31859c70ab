"""What foreign files do not say of their numbers, so that somebody has to state it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from softtargets.errors import InputError
from softtargets.layouts.layout import Option
from softtargets.store.vocabulary import VOCABULARY_NAME, encode_vocabulary
from softtargets.tokenizer import Vocabulary
from softtargets.urls import without_credentials

ValuesAre = Literal["full", "renormalised", "logits"]


class Tokenizer(Protocol):
    """What is asked of the teacher's tokenizer."""

    def describe(self) -> dict[str, Any]:
        """Return `describe_tokenizer` of it."""
        ...

    def vocabulary(self) -> Vocabulary:
        """Return its tokens."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What lists of entries do not say, so that somebody has to state it.

    Raises:
        InputError: the parts do not fit each other.
    """

    values: ValuesAre
    """What the numbers are: log-probabilities of the softmax over the whole vocabulary, of one over
    the kept entries alone, or logits before any temperature."""
    temperature: float | None = None
    """Of the softmax; None for logits."""
    vocab_size: int
    """Width of the teacher's output, padding included."""
    teacher: str | None = None
    """What people call it."""
    tokenizer: Mapping[str, Any] | None = None
    """`describe_tokenizer` of the teacher's."""
    vocabulary: Vocabulary | None = None
    """The tokenizer's tokens, to be stored beside the targets."""
    license: str | None = None
    """Of the targets, for whoever gets the store."""

    def __post_init__(self) -> None:
        temperature = self.temperature
        is_sound = temperature is None or temperature > 0
        if (self.values == "logits") != (temperature is None) or not is_sound:
            raise InputError(
                "temperature",
                expected="that of the softmax, above 0, for log-probabilities; none for logits",
                found=f"{temperature}, for values that are {self.values}",
                next_step="State what the numbers are: --values-are and --temperature.",
            )
        name = self.teacher or ""
        if without_credentials(name) != name:
            raise InputError(
                "teacher",
                expected="a name that everybody who gets the store may read",
                found="a URL with credentials or options",
                next_step="Name the teacher without them.",
            )
        if self.vocab_size < 1:
            raise InputError(
                "vocab_size",
                expected="the width of the teacher's output",
                found=f"{self.vocab_size}",
                next_step="Its config.json has it as vocab_size.",
            )

    @classmethod
    def of(
        cls, *, values_are: ValuesAre, tokenizer: Tokenizer | None = None, **rest: Any
    ) -> Stated:
        """Return what `STATED_OPTIONS` say.

        Raises:
            InputError: they do not fit each other.
        """
        if tokenizer is not None:
            rest |= {"tokenizer": tokenizer.describe(), "vocabulary": tokenizer.vocabulary()}
        return cls(values=values_are, **rest)

    @property
    def grid(self) -> tuple[float, ...]:
        """Return the temperatures at which the mass of the tail follows from the values."""
        if self.values != "full" or self.temperature is None:
            return ()
        return (self.temperature,)

    def side_files(self) -> dict[str, bytes]:
        """Return what is stored beside the targets, by name."""
        if self.vocabulary is None:
            return {}
        return {VOCABULARY_NAME: encode_vocabulary(self.vocabulary)}


STATED_OPTIONS = (
    Option(
        "values_are",
        ValuesAre,
        "full: log-probabilities over the whole vocabulary, so the tail is what they leave. "
        "renormalised: log-probabilities over the kept entries alone. logits: logits. The last two "
        "leave the tail unknown.",
        is_required=True,
    ),
    Option("temperature", float, "Temperature of the softmax of the values."),
    Option("vocab_size", int, "Width of the teacher's output, padding included.", is_required=True),
    Option(
        "tokenizer",
        Tokenizer,
        "Directory of the teacher's tokenizer. Without it the tokenizer is unknown.",
    ),
    Option("teacher", str, "Name of the teacher. Without it the teacher is unknown."),
    Option("license", str, "Licence of the targets, which the store keeps."),
)
