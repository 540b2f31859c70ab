"""LoRA: a student of which small matrices beside its weights are trained, by the library peft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from softtargets.errors import InputError
from softtargets.runs.settings import check_name

LORA_RATE = 2e-4
"""Learning rate by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """The adapter's shape; the matrices are added to the weights when the student is saved."""

    r: int = 16
    alpha: float | None = None
    """None for 2 r."""
    dropout: float = 0.0
    targets: str = "all-linear"
    """Names of modules with + between them, or all that are linear but the output head of a
    language model."""

    @classmethod
    def parse(cls, text: str) -> Lora:
        """Return what a text like r=16 or r=8,alpha=16,targets=q_proj+v_proj asks for.

        Raises:
            InputError: it asks for something else.
        """
        kinds = {"r": int, "alpha": float, "dropout": float, "targets": str}
        found: dict[str, Any] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            check_name("--lora", name, [one.name for one in fields(cls)])
            try:
                found[name] = kinds[name](value)
            except ValueError as error:
                raise _wrong(text) from error
        lora = cls(**found)
        if lora.r < 1 or not 0 <= lora.dropout < 1 or not lora.targets:
            raise _wrong(text)
        return lora

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    def wrap(self, model: Any, missing: Sequence[str]) -> Any:
        """Return a student with matrices that are trained, and weights that are not.

        Args:
            model: the student.
            missing: its weights that start at random, as those of a new output layer do. The
                modules that have them are trained whole: small changes to noise remain noise.

        Raises:
            InputError: peft is not installed, or the student has no such modules.
        """
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise InputError(
                "--lora",
                expected="the package peft",
                found="it not installed",
                next_step="Run: pip install peft. Or omit --lora to train all weights.",
            ) from error
        names = self.targets.split("+")
        # peft scales by any number, and types it as a whole one.
        alpha: Any = 2 * self.r if self.alpha is None else self.alpha
        config = LoraConfig(
            r=self.r,
            lora_alpha=alpha,
            lora_dropout=self.dropout,
            target_modules=names[0] if names == ["all-linear"] else names,
            modules_to_save=sorted({name.rpartition(".")[0] for name in missing}) or None,
        )
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise InputError(
                "--lora",
                expected="modules of the student",
                found=str(error).splitlines()[0],
                next_step="Name them with + between, or omit targets for all linear ones.",
            ) from error


def _wrong(text: str) -> InputError:
    return InputError(
        "--lora",
        expected="r, a whole number; alpha and dropout, numbers; or targets, names of modules",
        found=text,
        next_step="For example --lora r=16 or --lora r=8,alpha=16,targets=q_proj+v_proj.",
    )
