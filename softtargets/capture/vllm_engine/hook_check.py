"""What vLLM itself lists of a short text, against what is selected inside its workers.

Shapes: L tokens of the text, K entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from softtargets.capture.keep.selected import Selected
from softtargets.errors import TeacherError
from softtargets.targets import Float64

NUM_ENTRIES = 5
BOUNDS = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}
"""Nats by which log-probabilities may differ on average, by number format. vLLM makes the logits of
other rows together, which rounds otherwise; what is of another position differs by nats."""


def listed_logprobs(listed: Sequence[dict[int, Any] | None], ids: Sequence[int]) -> Float64:
    """Return log-probabilities that vLLM lists: of the likeliest ids, falling, then the label's.

    Args:
        listed: for each token of a prompt; None for the first.
        ids: of the prompt.
    """
    rows = []
    for label, found in zip(ids[1:], listed[1:], strict=True):
        assert found is not None
        likeliest = sorted((one.logprob for one in found.values()), reverse=True)
        rows.append([*likeliest[:NUM_ENTRIES], found[label].logprob])
    return np.array(rows, np.float64)


def selected_logprobs(selected: Selected) -> Float64:
    """Return the same of what was selected at temperature 1."""
    logits_NK = selected.logits_NK.double()
    # What the entries sum to is all but the tail.
    lse_N1 = logits_NK.logsumexp(dim=1, keepdim=True) - (-selected.tail_mass_NG.double()).log1p()
    assert selected.label_logit_N is not None
    both = np.concatenate(
        [logits_NK.numpy(), selected.label_logit_N.double()[:, None].numpy()], axis=1
    )
    return np.asarray(both - lse_N1.numpy(), np.float64)


def check_hook(listed: Float64, selected: Float64, name: str, dtype: str) -> None:
    """Check that both are of the same positions and the same logits.

    Raises:
        TeacherError: they differ by more than rounding does.
    """
    apart = np.abs(listed - selected).mean() if listed.shape == selected.shape else np.inf
    bound = BOUNDS[dtype]
    if not apart <= bound:
        raise TeacherError(
            name,
            expected=f"log-probabilities of a short text that are vLLM's own prompt_logprobs, "
            f"within {bound:g} nat on average",
            found=f"{apart:.3g} nat",
            next_step="This vLLM's workers are not as in the versions that were tested: "
            "docs/teachers.md has the range. Or start it as a server, and pass its URL.",
        )
