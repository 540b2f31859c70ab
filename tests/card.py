"""A card that is none: tensors that say they are on another device, with real numbers.

What runs inside `card` may not mix them with tensors of the CPU, as on a GPU. So code that forgets
to move something fails here, without a GPU. The device is called "meta": torch has that everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
_MOVES = ("_to_copy", "copy_", "index", "index_put", "index_put_")
"""Operations that a GPU, too, takes tensors of the CPU for."""


class OnCard(torch.Tensor):
    """A tensor on the card: its numbers are in `held`, on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnCard:
        own = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, layout=held.layout, device=DEVICE, requires_grad=held.requires_grad,
        )  # fmt: skip
        own.held = held
        return own

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def, override]
        return _run(func, args, kwargs or {})


@contextmanager
def card() -> Iterator[None]:
    """Make an `OnCard` of what is made on or moved to the card in here."""
    with pytest.MonkeyPatch.context() as patch, _Card():  # type: ignore[no-untyped-call]
        # Tensors of inference mode cannot say that they are elsewhere; autocast knows no "meta".
        patch.setattr(torch, "inference_mode", torch.no_grad)
        patch.setattr(torch, "is_autocast_enabled", lambda *_: False)
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        # Else a tied weight that is moved would become two.
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            yield
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)


class _Card(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    flat = tree_flatten((args, kwargs))[0]
    tensors = [one for one in flat if isinstance(one, torch.Tensor)]
    is_here = any(isinstance(one, OnCard) for one in tensors)
    others = [one for one in tensors if not isinstance(one, OnCard) and one.ndim]
    if is_here and others and name not in _MOVES:
        raise RuntimeError(f"{name}: tensors of the card and of the CPU")
    wanted = kwargs.get("device")
    if wanted is not None:
        is_here = torch.device(wanted) == DEVICE
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif name == "copy_":
        is_here = isinstance(args[0], OnCard)
    found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if not is_here or name in ("_local_scalar_dense", "equal"):
        return found
    # What is written in place stays the same object.
    own = {id(one.held): one for one in tensors if isinstance(one, OnCard)}
    return tree_map(
        lambda one: own.get(id(one), OnCard(one)) if isinstance(one, torch.Tensor) else one, found
    )


def _held(one: Any) -> Any:
    return one.held if isinstance(one, OnCard) else one
