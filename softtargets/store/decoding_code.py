"""Code for people that decodes a store's kept entries with numpy alone, written for its schema."""

from __future__ import annotations

from softtargets.store.schema import id_columns
from softtargets.targets import TargetSchema, temperature_text

_ENTRIES = """\
import numpy as np
from datasets import load_dataset

windows = load_dataset("org/name", split="train", streaming=True)
window = next(iter(windows))
byte = {{name: np.frombuffer(b"".join(window[name]), "u1").reshape(len(window["mask"]), -1)
        for name in [{planes}]}}
ids = sum(byte[f"id_plane_{{p}}"].astype(int) << 8 * p for p in range({num_planes}))
{logits}
logits[np.arange({k}) >= np.array(window["num_entries"])[:, None]] = -np.inf
{probabilities}"""
_FROM_STEPS = """\
steps = np.hstack([byte["steps"] & 15, byte["steps"] >> 4])[:, :{k}].astype(int)
steps[steps == 15] = window["escapes"]
logits = np.array(window["top_logit"])[:, None] - {step} * steps.cumsum(axis=1)"""
_FROM_FLOATS = 'logits = byte["logits"].view("<f4").copy()'
_PROBABILITIES = """\
weights = np.exp((logits - logits[:, :1]) / {temperature})
tail = np.array(window["tail_mass_t{text}"])[:, None]
probabilities = weights / weights.sum(axis=1, keepdims=True) * (1 - tail)
"""


def decoding_code(targets: TargetSchema) -> str | None:
    """Return Python code that decodes the first window of a store, or None if it has no head.

    The code has `ids`, `logits` and, where it is known what the vocabulary sums to,
    `probabilities` at the first temperature: arrays [T, K].
    """
    head = targets.head
    if head is None:
        return None
    planes = id_columns(targets)
    values = "steps" if head.values == "steps" else "logits"
    from_steps = _FROM_STEPS.format(k=head.max_entries, step=head.step)
    probabilities = ""
    if targets.temperatures:
        temperature = targets.temperatures[0]
        probabilities = _PROBABILITIES.format(
            temperature=f"{temperature:g}", text=temperature_text(temperature)
        )
    return _ENTRIES.format(
        planes=", ".join(f'"{name}"' for name in (*planes, values)),
        num_planes=len(planes),
        k=head.max_entries,
        logits=from_steps if head.values == "steps" else _FROM_FLOATS,
        probabilities=probabilities,
    )
