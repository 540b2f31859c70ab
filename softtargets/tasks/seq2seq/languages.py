"""Which languages a tokenizer of several is to read and write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from softtargets.errors import InputError
from softtargets.texts import shortened


@dataclass(frozen=True, slots=True, kw_only=True)
class Languages:
    """Source and target, as the tokenizer calls them; None for what it was saved with, or none."""

    source: str | None = None
    target: str | None = None

    def set(self, tokenizer: Any) -> None:
        """Let a tokenizer of transformers read and write these languages.

        Raises:
            InputError: it has no such language, does not know languages, or does not know which.
        """
        for option, attribute, language in (
            ("--source-language", "src_lang", self.source),
            ("--target-language", "tgt_lang", self.target),
        ):
            knows = hasattr(tokenizer, attribute)
            if language is None:
                if knows and getattr(tokenizer, attribute) is None:
                    raise _no_language(option, "one of the tokenizer's languages", "none")
                continue
            if not knows:
                expected = "a tokenizer of several languages"
                raise _no_language(option, expected, "one that is not told which", "Omit it.")
            if not _is_known(tokenizer, language):
                raise _no_language(option, "a language as the tokenizer calls it", language)
            setattr(tokenizer, attribute, language)


def _is_known(tokenizer: Any, language: str) -> bool:
    """Return whether a tokenizer has a language, by its table or by its tokens."""
    for name in ("lang_code_to_token", "lang_code_to_id"):
        table = getattr(tokenizer, name, None)
        if table:
            return language in table
    found = tokenizer.convert_tokens_to_ids(language)
    return found is not None and found != tokenizer.unk_token_id


def _no_language(
    option: str, expected: str, found: str, next_step: str | None = None
) -> InputError:
    return InputError(
        option,
        expected=expected,
        found=shortened(found),
        next_step=next_step
        or f"Pass {option} with a code such as de_DE or deu_Latn, which the "
        "model's own page lists.",
    )
