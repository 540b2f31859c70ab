"""What a user asks of a training, before anything is resolved."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from softtargets.errors import InputError
from softtargets.store import Store
from softtargets.store.foreign_yaml import parse_yaml
from softtargets.train.divergences import DivergenceName
from softtargets.train.sparse import Tail

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """The options of `softtargets train`; None leaves a choice to the store, student or recipe."""

    store: Store | str | Path
    student: str
    """See `StudentSpec`."""
    output: Path
    teacher: str | None = None
    tokenizer: str | None = None
    recipe: str | None = None
    temperature: float | None = None
    ce_weight: float | None = None
    divergence: DivergenceName | None = None
    tail: Tail | None = None
    logits_weight: float | None = None
    cosine_weight: float | None = None
    attention_weight: float | None = None
    hidden_weight: float | None = None
    embeddings_weight: float | None = None
    layer_map: tuple[int, ...] | None = None
    relation_heads: int | None = None
    logits_share: float | None = None
    epochs: float | None = None
    """3 if there are no steps."""
    steps: int | None = None
    batch_size: int | None = None
    """Windows of a forward pass on one process."""
    global_batch_size: int | None = None
    """Windows of an optimizer step over all processes."""
    learning_rate: float | None = None
    schedule: str = "linear"
    warmup: float = 0.05
    """A share of the steps, or from 1 on their number."""
    dtype: Precision = "auto"
    gradient_checkpointing: bool = False
    lora: str | None = None
    """See `Lora`."""
    evaluation: str | Path | None = None
    """A store to evaluate on."""
    evaluation_share: float = 0.02
    """Of the documents, which are held out if no store is named; 0 for none."""
    evaluation_steps: int | None = None
    """Between evaluations; None for a fifth of the training."""
    save_steps: int | None = None
    """Between checkpoints; None for a tenth of the training."""
    keep: int = 2
    """Checkpoints."""
    report_to: tuple[str, ...] = ()
    push: str | None = None
    seed: int = 0
    baseline: bool = False
    fresh: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `TrainingArguments`."""


def read_settings(path: Path, options: Collection[str]) -> dict[str, Any]:
    """Return the options in a YAML file; names may have hyphens, as on the command line.

    Args:
        path: of the file.
        options: the names that there are, with underscores.

    Raises:
        InputError: the file is no YAML of names and values, or a name is unknown.
    """
    try:
        found = parse_yaml(path.read_text(), str(path))
        if not isinstance(found, dict):
            raise ValueError(f"{type(found).__name__}")
    except (OSError, ValueError) as error:
        raise InputError(
            f"--config {path}",
            expected="YAML with a line 'name: value' for each option",
            found=str(error),
            next_step="Name the options as softtargets train --help does, without the hyphens in "
            "front.",
        ) from error
    named = {str(name).replace("-", "_"): value for name, value in found.items()}
    for name in named:
        check_name(f"--config {path}", name, options)
    if isinstance(named.get("set"), dict):
        named["set"] = [f"{name}={value}" for name, value in named["set"].items()]
    return named


def parse_arguments(texts: Collection[str]) -> dict[str, Any]:
    """Return fields of `TrainingArguments` from texts like name=value; a value is YAML.

    Raises:
        InputError: one is something else.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(
                "--set",
                expected="name=value",
                found=text,
                next_step="For example --set weight_decay=0.01.",
            )
        try:
            found[name] = _number_or(parse_yaml(value, f"--set {name}"))
        except ValueError as error:
            raise InputError(
                f"--set {name}",
                expected="a value in YAML",
                found=str(error),
                next_step="Put a text with special characters in quotes.",
            ) from error
    return found


def _number_or(value: Any) -> Any:
    """Return a text such as 1e-3, which YAML takes for no number, as one."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def check_name(where: str, name: str, known: Collection[str]) -> None:
    """Check that a name is known.

    Raises:
        InputError: it is not; the message has those that are like it.
    """
    if name not in known:
        near = get_close_matches(name, sorted(known))
        raise InputError(
            where,
            expected=f"a known name{', such as ' + ', '.join(near) if near else ''}",
            found=name,
            next_step="Correct the name.",
        )
