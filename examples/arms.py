"""The trainings that `examples.tinybert` compares: TinyBERT, and what it is without a part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from examples.comparison import ALONE

Stage = Literal["general", "task"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A training that there is for each seed."""

    stage: Stage
    """Whose store is read."""
    recipe: str
    start: str | None = None
    """The arm whose student this one goes on with; None for random weights."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the recipe."""
    short: str = ""
    """What it is called in the plot; nothing for what is no classifier yet."""


TINYBERT, GENERAL = "TinyBERT, both stages", "general stage of TinyBERT"
RELATIONS = "general stage of MiniLM"
NO_ATTENTION, NO_HIDDEN = "TinyBERT, task without attention", "TinyBERT, task without hidden states"
NO_GENERAL, LOGITS = "TinyBERT, task stage alone", "logits alone"
GENERAL_LABELS, MINILM = f"{GENERAL}, then labels", f"{RELATIONS}, then labels"
ARMS = {
    GENERAL: Arm(stage="general", recipe="tinybert-general"),
    RELATIONS: Arm(stage="general", recipe="minilm"),
    ALONE: Arm(stage="task", recipe="labels", short="labels\nalone"),
    LOGITS: Arm(stage="task", recipe="soft-targets", short="logits\nalone"),
    NO_GENERAL: Arm(stage="task", recipe="tinybert-task", short="task\nalone"),
    NO_ATTENTION: Arm(
        stage="task",
        recipe="tinybert-task",
        start=GENERAL,
        options={"attention_weight": 0.0},
        short="no\nattention",
    ),
    NO_HIDDEN: Arm(
        stage="task",
        recipe="tinybert-task",
        start=GENERAL,
        options={"hidden_weight": 0.0},
        short="no hidden\nstates",
    ),
    TINYBERT: Arm(stage="task", recipe="tinybert-task", start=GENERAL, short="TinyBERT"),
    GENERAL_LABELS: Arm(stage="task", recipe="labels", start=GENERAL, short="general,\nlabels"),
    MINILM: Arm(stage="task", recipe="labels", start=RELATIONS, short="MiniLM,\nlabels"),
}
"""Each after the one that it goes on with."""
PAIRS = (
    (TINYBERT, ALONE),
    (TINYBERT, LOGITS),
    (TINYBERT, NO_GENERAL),
    (TINYBERT, NO_ATTENTION),
    (TINYBERT, NO_HIDDEN),
    (TINYBERT, GENERAL_LABELS),
    (GENERAL_LABELS, ALONE),
    (MINILM, ALONE),
)
"""Students that are compared, each with one that lacks something."""
