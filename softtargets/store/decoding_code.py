"""Code for people that decodes a store's kept entries with numpy alone, written for its schema."""

from __future__ import annotations

from softtargets.store.schema import id_columns
from softtargets.targets import TargetSchema, temperature_text

_LOAD = """\
import numpy as np
from datasets import load_dataset

windows = load_dataset("org/name", split="train", streaming=True)
window = next(iter(windows))
is_kept = np.arange({k}) < np.array(window["num_entries"])[:, None]
"""
_PLANES = """\
byte = {{name: np.frombuffer(b"".join(window[name]), "u1").reshape(len(window["mask"]), -1)
        for name in [{planes}]}}
ids = sum(byte[f"id_plane_{{p}}"].astype(int) << 8 * p for p in range({num_planes}))
"""
_HALVES = """\
steps = np.hstack([byte["steps"] & 15, byte["steps"] >> 4])[:, :{k}].astype(int)
steps[steps == 15] = window["escapes"]
"""
_LISTS = """\
ids, steps = np.zeros(is_kept.shape, int), np.zeros(is_kept.shape, int)
ids[is_kept] = window["entry_ids"]
"""
_LIST_OF_STEPS = """\
steps[:, 1:][is_kept[:, 1:]] = window["entry_steps"]
"""
_FROM_STEPS = """\
logits = {top}{step} * steps.cumsum(axis=1)
"""
_TOP = 'np.array(window["top_logit"])[:, None] - '
_FROM_FLOATS = """\
logits = byte["logits"].view("<f4").copy()
"""
_LIST_OF_FLOATS = """\
logits = np.zeros(is_kept.shape)
logits[is_kept] = window["entry_logits"]
"""
_NOT_KEPT = """\
logits[~is_kept] = -np.inf
"""
_PROBABILITIES = """\
weights = np.exp((logits - logits[:, :1]) / {temperature})
{tail}
probabilities = weights / weights.sum(axis=1, keepdims=True) * (1 - tail)
"""
_TAIL = 'tail = np.array(window["tail_mass_t{text}"])[:, None]'
_TAIL_FROM_ODDS = """\
odds = np.maximum(np.array(window["tail_odds_t{text}"]) * {step}, -700)[:, None]
tail = 1 / (1 + np.exp(-odds))"""


def decoding_code(targets: TargetSchema) -> str | None:
    """Return Python code that decodes the first window of a store, or None if it has no head.

    The code has `ids`, `logits` and, where it is known what the vocabulary sums to,
    `probabilities` at the first temperature: arrays [T, K].
    """
    head = targets.head
    if head is None:
        return None
    in_steps, top = head.values == "steps", _TOP if head.top_logit else ""
    if head.form == "lists":
        entries = _LISTS + (_LIST_OF_STEPS if in_steps else _LIST_OF_FLOATS)
    else:
        planes = id_columns(targets)
        names = ", ".join(f'"{name}"' for name in (*planes, "steps" if in_steps else "logits"))
        entries = _PLANES.format(planes=names, num_planes=len(planes))
        entries += _HALVES.format(k=head.max_entries) if in_steps else _FROM_FLOATS
    if in_steps:
        step = head.step if head.top_logit else f"-{head.step}"
        entries += _FROM_STEPS.format(top=top, step=step)
    code = _LOAD.format(k=head.max_entries) + entries + _NOT_KEPT
    return code + _probabilities(targets) if targets.temperatures else code


def _probabilities(targets: TargetSchema) -> str:
    temperature = targets.temperatures[0]
    tail = _TAIL if targets.grid_step is None else _TAIL_FROM_ODDS
    text = temperature_text(temperature)
    return _PROBABILITIES.format(
        temperature=f"{temperature:g}", tail=tail.format(text=text, step=targets.grid_step)
    )
