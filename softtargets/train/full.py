"""The teacher's whole distribution, recomputed from its stored hidden states and output head.

Shapes: N positions with a target, V the teacher's vocabulary, U the student's, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn import functional

from softtargets.errors import InputError
from softtargets.store.store import Store
from softtargets.stream.batch import Batch
from softtargets.targets import HeadWeights
from softtargets.targets.head_weights import Activation, HeadTransform, TransformSchema
from softtargets.train.divergences import Divergence, needs_mass_everywhere
from softtargets.train.sparse import SMALLEST_LOG_REST, Tail, check_tail

_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """The layers of a head before its product with the vocabulary, on a device."""

    dense_DD: torch.Tensor
    dense_bias_D: torch.Tensor
    norm_scale_D: torch.Tensor
    norm_shift_D: torch.Tensor
    schema: TransformSchema

    @classmethod
    def of(cls, stored: HeadTransform, device: torch.device | str, dtype: torch.dtype) -> Transform:
        """Return stored layers on a device."""
        names = ("dense_DD", "dense_bias_D", "norm_scale_D", "norm_shift_D")
        own = {one: torch.from_numpy(getattr(stored, one)).to(device, dtype) for one in names}
        return cls(**own, schema=stored.schema)

    def __call__(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return what the product is with, each step rounded to the weights' format."""
        dense_ND = functional.linear(hidden_ND, self.dense_DD, self.dense_bias_D)
        return functional.layer_norm(
            _ACTIVATIONS[self.schema.activation](dense_ND),
            self.norm_scale_D.shape,
            self.norm_scale_D,
            self.norm_shift_D,
            self.schema.epsilon,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputHead:
    """A teacher's output head on a device. Make it with `OutputHead.of`."""

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None
    scale: float
    divisor: float
    softcap: float | None
    sha256: str
    """Of the stored weights: which head it is."""
    transform: Transform | None = None
    """What is done to hidden states before."""

    @classmethod
    def of(
        cls,
        store: Store,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> OutputHead:
        """Read the output head of a store.

        Args:
            store: one that was built with hidden states.
            dtype: in which logits are computed; by default as the teacher did, so that its own
                logits come out, up to the order in which a matrix product adds.
            device: where the student's are.

        Raises:
            InputError: the store has none.
            CorruptionError: its file is not what was committed.
        """
        schema = store.targets.output_head
        head = store.output_head()
        assert schema is not None
        return cls.of_weights(head, schema.sha256, dtype=dtype, device=device)

    @classmethod
    def of_weights(
        cls,
        head: HeadWeights,
        sha256: str,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> OutputHead:
        """Return an output head that is not in a store yet; see `OutputHead.of`.

        Raises:
            InputError: the dtype is none of floating-point numbers.
        """
        dtype = getattr(torch, head.dtype) if dtype is None else dtype
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise InputError(
                "OutputHead, dtype",
                expected="a floating-point dtype, such as torch.bfloat16",
                found=repr(dtype),
                next_step="Omit it for the teacher's own.",
            )
        weight_VD, bias_V = torch.from_numpy(head.weight_VD), None
        if head.bias_V is not None:
            bias_V = torch.from_numpy(head.bias_V).to(device, dtype)
        return cls(
            weight_VD=weight_VD.to(device, dtype),
            bias_V=bias_V,
            scale=head.scale,
            divisor=head.divisor,
            softcap=head.softcap,
            sha256=sha256,
            transform=None
            if head.transform is None
            else Transform.of(head.transform, device, dtype),
        )

    @torch.no_grad()
    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return the teacher's logits [N, V], each step rounded to the weights' format."""
        with torch.autocast(hidden_ND.device.type, enabled=False):
            hidden_ND = hidden_ND.to(self.weight_VD.dtype)
            if self.transform is not None:
                hidden_ND = self.transform(hidden_ND)
            logits_NV = functional.linear(hidden_ND, self.weight_VD, self.bias_V)
            logits_NV = logits_NV.mul_(self.scale).div_(self.divisor)
            if self.softcap is not None:
                logits_NV = logits_NV.div_(self.softcap).tanh_().mul_(self.softcap)
            return logits_NV


@dataclass(frozen=True, slots=True, kw_only=True)
class FullTargets:
    """What a student is compared with at N positions: every probability of the teacher.

    They are computed anew whenever a loss is, so that a loss in chunks needs no memory for all.
    """

    hidden_ND: torch.Tensor
    head: OutputHead
    temperature: float
    confidence_power: float
    """Losses are multiplied by this power of the probability of the teacher's top entry."""

    @property
    def tail(self) -> Tail:
        """Return what they are called."""
        return "full"

    @property
    def ids_NE(self) -> torch.Tensor:
        """Return no entries: none stands out."""
        shape = (len(self.hidden_ND), 0)
        return torch.empty(shape, dtype=torch.int64, device=self.hidden_ND.device)

    def rows(self, chosen: slice) -> FullTargets:
        """Return some positions."""
        return replace(self, hidden_ND=self.hidden_ND[chosen])

    def dense_losses(self, divergence: Divergence, scaled_logits_NU: torch.Tensor) -> torch.Tensor:
        """Return the student's divergence [N] in nats, its logits divided by the temperature.

        To ids that only the student has the teacher gives no mass, see `dense_divergence`.
        """
        log_t_NV = self.head.logits(self.hidden_ND).float().div_(self.temperature)
        log_t_NV = log_t_NV.log_softmax(dim=1)
        log_s_NU = scaled_logits_NU.log_softmax(dim=1)
        num_own = log_s_NU.shape[1] - log_t_NV.shape[1]
        log_t_NU = functional.pad(log_t_NV, (0, num_own), value=-torch.inf)
        losses_N = dense_divergence(divergence, log_t_NU, log_s_NU)
        if self.confidence_power != 0:
            losses_N = losses_N * log_t_NV.amax(dim=1).exp() ** self.confidence_power
        return losses_N


def dense_divergence(
    divergence: Divergence, log_t_NU: torch.Tensor, log_s_NU: torch.Tensor
) -> torch.Tensor:
    """Return a divergence [N] in nats between log-probabilities of all outcomes.

    In divergences that would be infinite where the teacher has no mass, all ids without mass are
    one outcome, of which the teacher has 2^-24, as of a bucket that nothing is in; or as much as of
    its least likely id, if that is less: else a student would rather have ids that the teacher
    lacks.
    """
    if needs_mass_everywhere(divergence):
        return _losses_with_floor(divergence, log_t_NU, log_s_NU)
    return divergence.terms(log_t_NU, log_s_NU).sum(dim=1)


def full_targets(
    batch: Batch,
    places_N: torch.Tensor,
    head: OutputHead,
    temperature: float,
    confidence_power: float,
) -> FullTargets:
    """Return the targets of single positions of a batch."""
    return FullTargets(
        hidden_ND=batch["hidden_states"].flatten(0, 1)[places_N],
        head=head,
        temperature=temperature,
        confidence_power=confidence_power,
    )


def check_full(batch: Batch, tail: Tail | None, head: OutputHead | None) -> OutputHead | None:
    """Return the output head that goes with a batch and tail "full"; None with other tails.

    Raises:
        InputError: they do not go together, or there is no such tail; the message says why.
    """
    check_tail(tail)
    if tail != "full" and head is None:
        return None
    if tail != "full":
        raise InputError(
            "teacher_head",
            expected="tail='full' with it",
            found=f"tail={tail!r}, which does not use it",
            next_step="Pass both or neither.",
        )
    if "hidden_states" not in batch or batch["output_head"] is None:
        raise InputError(
            "tail 'full'",
            expected="a store with the teacher's hidden states and output head",
            found="one without",
            next_step="Build the store with --hidden-states.",
        )
    if head is None or head.sha256 != batch["output_head"].sha256:
        raise InputError(
            "teacher_head",
            expected="the output head of the batch's own store",
            found="none" if head is None else f"another, with SHA-256 {head.sha256}",
            next_step="Pass OutputHead.of(store).",
        )
    device = batch["hidden_states"].device
    if head.weight_VD.device != device:
        raise InputError(
            "teacher_head",
            expected=f"one on the batch's device, {device}",
            found=f"one on {head.weight_VD.device}",
            next_step="Pass OutputHead.of(store, device=...).",
        )
    return head


def _losses_with_floor(
    divergence: Divergence, log_t_NU: torch.Tensor, log_s_NU: torch.Tensor
) -> torch.Tensor:
    """Return a divergence that is infinite without mass: ids without it are one outcome."""
    is_none_NU = log_t_NU == -torch.inf
    terms_NU = divergence.terms(
        log_t_NU.masked_fill(is_none_NU, 0), log_s_NU.masked_fill(is_none_NU, 0)
    )
    outside_N = log_s_NU.exp().masked_fill(~is_none_NU, 0).sum(dim=1)
    log_outside_N = outside_N.clamp(min=torch.finfo(outside_N.dtype).tiny).log()
    floor_N = log_t_NU.masked_fill(is_none_NU, 0).amin(dim=1).clamp(max=SMALLEST_LOG_REST)
    return terms_NU.sum(dim=1) + divergence.terms(floor_N, log_outside_N)
