"""What an export says about itself: what it is of, what it lost, how a trainer is to be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import yaml

from softtargets.kinds import TargetSchema
from softtargets.store.card import code_span
from softtargets.store.layouts.sequences import HeadView
from softtargets.store.store import Store

_TRAINERS = {"axolotl": "axolotl's KD trainer", "distillkit": "DistillKit's offline trainer"}


def describe_loss(
    schema: TargetSchema, view: HeadView, layout: Literal["axolotl", "distillkit"]
) -> list[str]:
    """Return what of a store's targets such an export does not have, a sentence for each."""
    assert schema.head is not None
    others = [one for one in schema.temperatures if one != view.temperature]
    own = f"temperature {view.temperature:g}"
    losses = [
        "Which windows and documents the rows are from: a row is a document's part of a window.",
        "The level of the logits: there are log-probabilities.",
    ]
    if view.values == "renormalised":
        losses.append(f"The tail: its mass is divided among the kept entries, at {own}.")
    else:
        losses.append(f"The tail but for its mass at {own}, which is 1 - sum(exp(log-prob)).")
    if others:
        losses.append(f"The tail mass at {', '.join(f'{one:g}' for one in others)}.")
    if view.top_k < schema.head.max_entries:
        losses.append(f"Entries after the first {view.top_k} of {schema.head.max_entries}.")
    if schema.samples is not None:
        losses.append("The draws: what is left is a biased estimate of the distribution.")
    if schema.label_logits:
        losses.append("The labels' logits and ranks.")
    losses += [f"The feature {code_span(feature.name)}." for feature in schema.features]
    if layout == "distillkit":
        losses.append(
            "Labels for cross-entropy: `labels[t]` is what the trainer masks the target at token t "
            "by, which is about token t + 1. Leave cross_entropy out where only some are trained."
        )
    return losses


def readme_text(store: Store, about: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return the README of an export, whose front matter tells the Hub which files are data."""
    layout = about["layout"]
    front = {"configs": [{"config_name": "default", "data_files": "data/*.parquet"}]}
    teacher = code_span(store.manifest.teacher)
    lost = "\n".join(f"- {loss}" for loss in about["lost"])
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---

# Soft targets for {_TRAINERS[layout]}

Written by `softtargets export --to {layout}` from a store of {teacher}, fingerprint
`{store.fingerprint}`: {store.targets.describe()}.

Not in here:

{lost}

What the trainer has to be told:

```yaml
{yaml.safe_dump(dict(config), sort_keys=False)}```
"""
