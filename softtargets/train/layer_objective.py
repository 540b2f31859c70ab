"""Objectives of layers: TinyBERT's, and the relations of MiniLM v2.

The teacher's layers are run again on their stored inputs, see `RerunLayers`, so attention is
compared and never stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from softtargets.errors import InputError
from softtargets.layers.layer_body import LayerRun
from softtargets.layers.recorder import LayerRecords
from softtargets.layers.rerun_layers import RerunLayers
from softtargets.stream.batch import Batch
from softtargets.train.choices import check_number
from softtargets.train.layer_losses import attention_loss, relation_loss, states_loss
from softtargets.train.objective import Fused, Objective, StudentOutputs

_EMBEDDINGS = "layer_0"


class LayerObjective(Objective):
    """A mean over the tokens of a batch, which counts in its step by its share of the targets.

    Args:
        teacher: its layers.
    """

    needs = frozenset({"layers"})

    def __init__(self, teacher: RerunLayers) -> None:
        super().__init__()
        self.teacher = teacher

    def layer_loss(self, layers: LayerRecords, batch: Batch) -> torch.Tensor:
        """Return the loss of what went through a student's layers, a mean over tokens."""
        raise NotImplementedError(f"{type(self).__name__} has no method layer_loss")

    def loss(
        self, outputs: StudentOutputs, batch: Batch, num_targets: float | torch.Tensor | None
    ) -> torch.Tensor:
        """Return the batch's part of a step.

        Raises:
            InputError: student, store and options do not fit each other.
        """
        assert outputs.layers is not None
        share = 1.0 if num_targets is None else batch["target_mask"].sum() / num_targets
        with torch.autocast(batch["input_ids"].device.type, enabled=False):
            return share * self.layer_loss(outputs.layers, batch)

    def run(self, number: int, batch: Batch) -> LayerRun:
        """Return what a layer of the teacher does with a batch."""
        return self.teacher.run(number, batch.states(f"layer_{number}"), self.inputs(batch))

    def check_there(self, numbers: Sequence[int], words: str) -> None:
        """Check that the store has layers.

        Raises:
            InputError: it has not all of them.
        """
        missing = sorted(set(numbers) - set(self.teacher.numbers))
        if missing:
            listed = ",".join(map(str, sorted(set(numbers))))
            raise InputError(
                "the recipe, its layers",
                expected=f"a store with layers {listed}, {words}",
                found=f"one with {', '.join(map(str, self.teacher.numbers))}",
                next_step=f"Build the store with --rerun-layers {listed}, or name others with "
                "--layer-map.",
            )


class RelationObjective(LayerObjective):
    """Relations of one layer of the teacher, learned by the last layer of a student of any width.

    See `relation_loss`.

    Args:
        teacher: its layers.
        layer: which of them; None for the last that the store has.
        num_heads: relation heads; None for as many as the teacher has heads.
    """

    def __init__(
        self, teacher: RerunLayers, layer: int | None = None, num_heads: int | None = None
    ) -> None:
        super().__init__(teacher)
        self.layer = teacher.numbers[-1] if layer is None else layer
        self.num_heads = num_heads
        self.check_there([self.layer], "whose relations a student learns")
        if num_heads is not None:
            check_number("relation_heads", num_heads, low=1)

    def layer_loss(self, layers: LayerRecords, batch: Batch) -> torch.Tensor:
        """Return the loss of the last layer's relations."""
        teacher = self.run(self.layer, batch).attention
        num_heads = self.num_heads or teacher.query_BALH.shape[1]
        return relation_loss(layers.attention[-1], teacher, batch.token_mask(), num_heads)


class TinyBERTObjective(LayerObjective):
    """Embeddings, hidden states and attention scores of layers, each by its mean square.

    The sum over the student's layers of `attention` times `attention_loss` and `hidden` times
    `states_loss`, and `embeddings` times that of the embeddings (Jiao et al. 2020). A student of
    another width learns a projection of its hidden states, and one of its embeddings. They are
    parameters of the objective, and no part of the student.

    Args:
        teacher: its layers.
        attention: weight of the attention scores.
        hidden: weight of the hidden states.
        embeddings: weight of the embeddings.
        layer_map: the layer of the teacher that each layer of the student learns from; None for
            every k-th, where the teacher has k times as many.
        logits: what the student is trained for at the end, instead of layers; None for nothing.
        logits_share: of the training, for that.
    """

    def __init__(
        self,
        teacher: RerunLayers,
        *,
        attention: float = 1.0,
        hidden: float = 1.0,
        embeddings: float = 1.0,
        layer_map: Sequence[int] | None = None,
        logits: Objective | None = None,
        logits_share: float = 0.5,
    ) -> None:
        super().__init__(teacher)
        self.attention, self.hidden, self.embeddings = attention, hidden, embeddings
        for name in ("attention", "hidden", "embeddings"):
            check_number(f"{name}_weight", getattr(self, name), low=0, next_step="0 leaves it out.")
        if not attention + hidden + embeddings:
            raise InputError(
                "attention, hidden and embeddings",
                expected="one weight above 0",
                found="none",
                next_step="Pass one of them, or train for logits alone.",
            )
        check_number("logits_share", logits_share, low=0, high=1)
        self.layer_map = None if layer_map is None else tuple(layer_map)
        self.logits, self._logits_share = logits, logits_share
        self._due: Objective | None = None
        """What is learned now instead of layers."""
        self._depth: int | None = None

    def prepare(self, student: torch.nn.Module) -> None:
        """Choose the teacher's layers, and make projections if the widths differ.

        Raises:
            InputError: the depths do not fit, or the store lacks a layer.
        """
        if self._depth is not None:
            return
        config: Any = student.config
        config = config.get_text_config()
        depth, width = config.num_hidden_layers, config.hidden_size
        self.layer_map = self._mapped(depth)
        if self.attention or self.hidden:
            self.check_there(self.layer_map, f"which a student of {depth} layers learns from")
        if width != self.teacher.width:
            if self.hidden:
                self.project_hidden = _projection(width, self.teacher.width, 1)
            if self.embeddings:
                self.project_embeddings = _projection(width, self.teacher.width, 2)
        self._depth = depth

    def _mapped(self, depth: int) -> tuple[int, ...]:
        """Return the layer of the teacher for each of so many of a student."""
        num_layers, own = self.teacher.num_layers, self.layer_map
        if own is None and num_layers % depth == 0:
            step = num_layers // depth
            return tuple(range(step - 1, num_layers, step))
        if own is None or len(own) != depth or any(not 0 <= one < num_layers for one in own):
            raise InputError(
                "--layer-map",
                expected=f"a layer of the teacher, 0 to {num_layers - 1}, for each of the "
                f"student's {depth}",
                found=f"none, and {num_layers} are no multiple of {depth}"
                if own is None
                else ", ".join(map(str, own)),
                next_step="Name the layers with commas between them, in the order of the "
                "student's.",
            )
        return own

    def advance(self, share: float) -> None:
        """Train for layers first, and for logits in the share at the end."""
        self._due = self.logits if share >= 1 - self._logits_share else None
        self.needs = LayerObjective.needs if self._due is None else self._due.needs

    def fuses(self, batch: Batch) -> Fused:
        """Return whether the loss of logits is due, and fused."""
        return False if self._due is None else self._due.fuses(batch)

    def head_loss(self, *arguments: Any) -> torch.Tensor:
        """Return the fused loss of logits."""
        assert self._due is not None
        return self._due.head_loss(*arguments)

    def loss(
        self, outputs: StudentOutputs, batch: Batch, num_targets: float | torch.Tensor | None
    ) -> torch.Tensor:
        """Return the loss of layers or of logits, whichever is due.

        Raises:
            InputError: student, store and options do not fit each other.
        """
        if self._due is None:
            return super().loss(outputs, batch, num_targets)
        loss = self._due.loss(outputs, batch, num_targets)
        # DistributedDataParallel waits for a gradient of every parameter.
        for one in self.parameters():
            loss = loss + 0 * one.sum()
        return loss

    def layer_loss(self, layers: LayerRecords, batch: Batch) -> torch.Tensor:
        """Return the weighted sum over layers."""
        assert self.layer_map is not None
        is_token_BL = batch.token_mask()
        states = layers.states
        total = torch.zeros((), device=is_token_BL.device)
        if self.embeddings:
            own = self._projected("project_embeddings", states[0])
            loss = states_loss(own, batch.states(_EMBEDDINGS), is_token_BL)
            total = total + self.embeddings * loss
        if not self.attention and not self.hidden:
            return total
        for place, number in enumerate(self.layer_map):
            run = self.run(number, batch)
            if self.attention:
                loss = attention_loss(layers.attention[place], run.attention, is_token_BL)
                total = total + self.attention * loss
            if self.hidden:
                own = self._projected("project_hidden", states[place + 1])
                total = total + self.hidden * states_loss(own, run.output_BLD, is_token_BL)
        return total

    def _projected(self, name: str, states_BLD: torch.Tensor) -> torch.Tensor:
        """Return hidden states in the teacher's width."""
        projection = getattr(self, name, None)
        if projection is None:
            return states_BLD
        projected: torch.Tensor = projection(states_BLD.float())
        return projected


def _projection(width: int, teacher_width: int, seed: int) -> torch.nn.Linear:
    """Return a projection between widths, always the same at first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Linear(width, teacher_width)
