"""The attention mask of a batch: a tensor, unless documents share rows.

A mask of padding alone lets documents that share a row see each other, and no loss can notice it.
So such a batch has no mask that a model could read. In the mask's place stands an object that can
be moved and copied. Every other use raises an error, which says what to use instead.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch

from softtargets.errors import InputError


class SharedRowsError(InputError, AttributeError):
    """The mask of padding is asked for where documents share rows.

    It is an AttributeError too, so that `hasattr`, by which loaders tell tensors from other things,
    finds no attribute instead of failing.
    """


class NoMask:
    """What stands for `attention_mask` where a mask of padding would be wrong."""

    def __repr__(self) -> str:
        return "<none: documents share rows, use student_inputs(batch)>"

    def __reduce__(self) -> str:
        return "NO_MASK"

    def __getattr__(self, name: str) -> NoReturn:
        raise _refusal(f".{name}")

    def __getitem__(self, key: object) -> NoReturn:
        raise _refusal("an index")

    def __iter__(self) -> NoReturn:
        raise _refusal("iteration")

    def __len__(self) -> NoReturn:
        raise _refusal("len")

    def __bool__(self) -> NoReturn:
        raise _refusal("bool")

    @classmethod
    def __torch_function__(cls, function: Any, *_: Any) -> NoReturn:
        raise _refusal(f"torch.{getattr(function, '__name__', function)}")


NO_MASK = NoMask()


def attention_mask(num_tokens: torch.Tensor, length: int, num_segments: int) -> Any:
    """Return the mask [B, L] int64 of rows with so many tokens [B], or `NO_MASK`.

    Args:
        num_tokens: tokens of each row; padding follows them.
        length: L.
        num_segments: the most documents of a row.
    """
    return NO_MASK if num_segments > 1 else token_mask(num_tokens, length).long()


def token_mask(num_tokens: torch.Tensor, length: int) -> torch.Tensor:
    """Return where there is a token, [B, L] bool."""
    return torch.arange(length, device=num_tokens.device) < num_tokens[:, None]


def _refusal(asked: str) -> SharedRowsError:
    return SharedRowsError(
        "Batch, attention_mask",
        expected="the student to read student_inputs(batch), as documents share rows of this batch "
        "and a mask of padding would let them see each other",
        found=f"a use of batch['attention_mask']: {asked}",
        next_step="Call student(**student_inputs(batch)), with `from softtargets import "
        "student_inputs`. batch.token_mask() tells padding from tokens.",
    )
