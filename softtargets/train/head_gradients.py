"""The gradients of an output head, made chunk by chunk before the loss's own scale is known.

A GradScaler multiplies a loss by up to 2^24, so that what flows back in float16 does not vanish.
Here gradients are made together with the loss, when nobody has multiplied it yet: a probability
over the number of targets is mostly below float16's smallest number. So each chunk has a scale of
its own, a power of two and thus exact, as large as its products allow without overflow. It is
undone in float32 when the scale of the loss is known. bfloat16 has the range of float32 and needs
none.

Shapes: N positions with a target, C of them in a chunk, V vocabulary, D width.
"""

from __future__ import annotations

import torch

_LARGEST_PRODUCT = 2.0**15
"""Of a chunk, half of float16's largest number: room for rounding."""
_LARGEST_SCALE = 2.0**100
"""Of a chunk, so that the scale and one over it are float32 numbers."""


class HeadGradients:
    """Gradients of hidden states, weight and bias, summed over chunks.

    Args:
        hidden_ND: the hidden states; their gradient has their number format.
        weight_VD: the head's weight; its gradient is summed in float32. None for no gradient.
        bias_V: the head's bias; None for no gradient.
    """

    def __init__(
        self,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor | None,
        bias_V: torch.Tensor | None,
    ) -> None:
        self._hidden_ND = torch.empty_like(hidden_ND)
        self._weight_VD, self._bias_V = (
            None if one is None else torch.zeros_like(one, dtype=torch.float32)
            for one in (weight_VD, bias_V)
        )
        self._dtypes = [None if one is None else one.dtype for one in (weight_VD, bias_V)]
        self._scales: list[tuple[slice, torch.Tensor]] = []
        """Of each chunk, what the gradient of its hidden states is still multiplied by."""

    def add(
        self,
        rows: slice,
        grad_CV: torch.Tensor,
        hidden_CD: torch.Tensor,
        head_VD: torch.Tensor,
        largest_weight: torch.Tensor,
    ) -> None:
        """Add a chunk.

        Args:
            rows: where the chunk stands among the hidden states.
            grad_CV: the gradient of its logits in float32, which is overwritten.
            hidden_CD: its hidden states, in the number format of the products.
            head_VD: the weight in that format.
            largest_weight: the largest size of a weight.
        """
        if self._bias_V is not None:
            self._bias_V += grad_CV.sum(dim=0)
        scale = hidden_scale = grad_CV.new_ones(())
        if hidden_CD.dtype == torch.float16:
            scale, hidden_scale = _scales(grad_CV, hidden_CD, largest_weight)
            grad_CV = grad_CV.mul_(scale)
            hidden_CD = (hidden_CD.float() * hidden_scale).half()
        grad_CV = grad_CV.to(hidden_CD.dtype)
        self._hidden_ND[rows] = grad_CV @ head_VD
        self._scales.append((rows, scale))
        if self._weight_VD is not None and hidden_CD.dtype == torch.float32:
            self._weight_VD.addmm_(grad_CV.T, hidden_CD)
        elif self._weight_VD is not None:
            self._weight_VD.addcmul_(grad_CV.T @ hidden_CD, 1 / (scale * hidden_scale))

    def scaled(self, factor: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the three gradients, multiplied by a factor; once, as they are overwritten.

        What is too large for its number format becomes infinite, as a GradScaler expects.
        """
        for rows, scale in self._scales:
            # In float32: neither the factor nor the scale need be float16 numbers.
            wide_CD = self._hidden_ND[rows].to(
                torch.promote_types(scale.dtype, self._hidden_ND.dtype)
            )
            self._hidden_ND[rows] = wide_CD * (factor / scale)
        head = (
            None if one is None else one.mul_(factor).to(dtype)
            for one, dtype in zip((self._weight_VD, self._bias_V), self._dtypes, strict=True)
        )
        return self._hidden_ND, *head


def _scales(
    grad_CV: torch.Tensor, hidden_CD: torch.Tensor, largest_weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scales of a chunk's gradient and of its hidden states.

    No entry of a product is larger than a row's sum of sizes times the largest size of the other
    matrix.
    """
    row_sum = torch.linalg.vector_norm(grad_CV, 1, dim=1).amax()
    column_sum = torch.linalg.vector_norm(grad_CV, 1, dim=0).amax()
    largest_hidden = torch.linalg.vector_norm(hidden_CD, torch.inf).float()
    scale = _power_of_two(_LARGEST_PRODUCT / (row_sum * largest_weight.float().clamp(min=1)))
    column_sum = (column_sum * scale).clamp(min=1)
    return scale, _power_of_two(_LARGEST_PRODUCT / (column_sum * largest_hidden))


def _power_of_two(limit: torch.Tensor) -> torch.Tensor:
    """Return the largest power of two that is not above a limit; some, if that is no number."""
    _, exponent = torch.frexp(limit.nan_to_num(1.0).clamp(max=_LARGEST_SCALE))
    return torch.ldexp(torch.ones_like(limit), exponent - 1)
