"""Students near the teacher: the teacher without some of its layers, trained on.

The layers before the first that is trained, and the output head, stay the teacher's. So what the
frozen layers read of the text is computed once, and a step costs as much as the head and the
trained layers.

Shapes: B windows of a batch, L tokens, D width, N positions, V vocabulary, W windows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import Identity, Module, ModuleList, functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from softtargets.fidelity.sample import TeacherSample
from softtargets.train.divergences import ForwardKL
from softtargets.train.sparse import SparseTargets
from softtargets.window import TokenWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How every student is trained; the learning rate rises, and then stays."""

    epochs: tuple[int, ...]
    """After which the student is looked at, rising."""
    batch_size: int
    learning_rate: float
    warmup_steps: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CutTeacher:
    """A teacher without some of its layers, in two parts."""

    trunk: Module
    """The embeddings and the layers that stay as they are."""
    top: Module
    """The layers that a student begins with and trains, and the last norm."""
    head: Module
    """The output head, which stays as it is."""

    @classmethod
    def load(
        cls, directory: str, dropped: Sequence[int], first_trained: int, device: torch.device
    ) -> CutTeacher:
        """Load a model in float32, drop layers, and train those from `first_trained` on."""
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        model.requires_grad_(False)
        decoder = model.get_decoder()
        kept = [(at, one) for at, one in enumerate(decoder.layers) if at not in dropped]
        if len(kept) + len(set(dropped)) != len(decoder.layers):
            raise ValueError(f"layers {list(dropped)} of a model of {len(decoder.layers)}")
        trunk = _part(decoder, [one for at, one in kept if at < first_trained])
        trunk.embed_tokens, trunk.norm = decoder.embed_tokens, Identity()
        top = _part(decoder, [one for at, one in kept if at >= first_trained])
        # It reads what the trunk made, not ids.
        top.embed_tokens, top.norm = Identity(), decoder.norm
        parts = trunk, top.requires_grad_(True), model.get_output_embeddings()
        for part in parts:
            Module.to(part, device)
        return cls(trunk=parts[0], top=parts[1], head=parts[2])

    @torch.no_grad()
    def read(self, windows: Sequence[TokenWindow]) -> torch.Tensor:
        """Return what the trunk made of windows of one length, [W, L, D]."""
        device = next(self.head.parameters()).device
        parts = []
        for window in windows:
            ids_1L = torch.from_numpy(window.input_ids_L).long()[None].to(device)
            parts.append(self.trunk(input_ids=ids_1L, use_cache=False).last_hidden_state)
        return torch.cat(parts)


def _part(decoder: PreTrainedModel, layers: Sequence[Module]) -> PreTrainedModel:
    """Return a decoder like another with other layers, in evaluation mode."""
    config = copy.deepcopy(decoder.config)
    config.num_hidden_layers = 0
    part: PreTrainedModel = type(decoder)(config)
    part.layers = ModuleList(layers)
    part.config.num_hidden_layers = len(layers)
    part.eval()
    return part


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Windows of one length, what the teacher said of them, and what the trunk made of them."""

    sample: TeacherSample
    trunk_WLD: torch.Tensor
    log_teacher_NV: torch.Tensor | None
    """The teacher's log-probabilities, where they are read often; None makes them each time."""

    @classmethod
    def of(cls, sample: TeacherSample, trunk_WLD: torch.Tensor, *, keep_teacher: bool) -> Text:
        """Return a text, with the teacher's log-probabilities if they are to be kept."""
        whole = _log_probabilities(sample, slice(len(sample))) if keep_teacher else None
        return cls(sample=sample, trunk_WLD=trunk_WLD, log_teacher_NV=whole)

    def log_teacher(self, rows: slice) -> torch.Tensor:
        """Return the teacher's log-probabilities [N, V] at some positions."""
        if self.log_teacher_NV is not None:
            return self.log_teacher_NV[rows]
        return _log_probabilities(self.sample, rows)

    @property
    def targets_per_window(self) -> int:
        """Return L - 1."""
        return self.trunk_WLD.shape[1] - 1

    def rows(self, place: int) -> slice:
        """Return which of the sample's positions are those of a window."""
        start = place * self.targets_per_window
        return slice(start, start + self.targets_per_window)


def train(
    cut: CutTeacher,
    text: Text,
    targets: SparseTargets | None,
    held_out: Text,
    recipe: Recipe,
    seed: int,
) -> Iterator[float]:
    """Yield a student's mean KL to the teacher on held-out text, after each of `recipe.epochs`.

    It begins as the cut teacher. Its order of windows depends on the seed alone. Without targets
    it has the teacher's whole distribution.
    """
    top = copy.deepcopy(cut.top)
    optimizer = torch.optim.AdamW(top.parameters(), lr=recipe.learning_rate)
    step = 0
    for epoch, batches in enumerate(orders(len(text.trunk_WLD), recipe, seed), start=1):
        for places in batches:
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * min(1, step / recipe.warmup_steps)
            _loss(cut, top, text, targets, places).backward()
            optimizer.step()
            optimizer.zero_grad()
        if epoch in recipe.epochs:
            yield mean_kl(cut, top, held_out)


def orders(num_windows: int, recipe: Recipe, seed: int) -> list[list[list[int]]]:
    """Return the windows of each batch of each epoch; targets have no part in it."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(max(recipe.epochs)):
        order = rng.permutation(num_windows).tolist()
        size = recipe.batch_size
        found.append([order[at : at + size] for at in range(0, num_windows, size)])
    return found


def _loss(
    cut: CutTeacher,
    top: Module,
    text: Text,
    targets: SparseTargets | None,
    places: Sequence[int],
) -> torch.Tensor:
    """Return the mean over the targets of some windows, in nats."""
    hidden_BLD = top(inputs_embeds=text.trunk_WLD[places], use_cache=False).last_hidden_state
    total: torch.Tensor = hidden_BLD.new_zeros(())
    for place, hidden_LD in zip(places, hidden_BLD, strict=True):
        logits_NV, rows = cut.head(hidden_LD[:-1]), text.rows(place)
        if targets is None:
            log_t_NV = text.log_teacher(rows)
            log_s_NV = logits_NV.log_softmax(dim=1)
            total = total + functional.kl_div(log_s_NV, log_t_NV, reduction="sum", log_target=True)
            continue
        own = targets.rows(rows)
        student_NE, logsumexp_N = logits_NV.gather(1, own.ids_NE), logits_NV.logsumexp(dim=1)
        total = total + own.losses(ForwardKL(), student_NE, logsumexp_N).sum()
    return total / (len(places) * text.targets_per_window)


@torch.no_grad()
def _log_probabilities(sample: TeacherSample, rows: slice) -> torch.Tensor:
    # An inference tensor may not take part in a graph.
    logits_NV = sample.teacher.logits(sample.hidden_ND[rows])
    log_t_NV: torch.Tensor = logits_NV.float().log_softmax(dim=1)
    return log_t_NV.clone()


@torch.no_grad()
def mean_kl(cut: CutTeacher, top: Module, held_out: Text) -> float:
    """Return the mean KL(teacher || student) over the whole vocabulary, in nats a target."""
    total = 0.0
    for place, trunk_LD in enumerate(held_out.trunk_WLD):
        hidden_1LD = top(inputs_embeds=trunk_LD[None], use_cache=False).last_hidden_state
        log_s_NV = cut.head(hidden_1LD[0, :-1]).log_softmax(dim=1)
        log_t_NV = held_out.log_teacher(held_out.rows(place))
        terms_N = functional.kl_div(log_s_NV, log_t_NV, reduction="none", log_target=True).sum(
            dim=1
        )
        total += terms_N.double().sum().item()
    return total / len(held_out.sample)
