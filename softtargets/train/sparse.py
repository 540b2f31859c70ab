"""Sparse targets of single positions, and a student's divergence from them.

Shapes: N positions with a target, E entries, V vocabulary, K kept entries, S sampled ids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from softtargets.errors import InputError
from softtargets.stream.batch import Batch, BatchTargets
from softtargets.train.choices import check_choice
from softtargets.train.divergences import (
    Divergence,
    DivergenceName,
    ForwardKL,
    as_divergence,
    is_linear,
    needs_mass_everywhere,
)

Tail = Literal["bucket", "uniform", "label", "renormalize", "sampled", "full"]
"""What stands for the ids that are not kept.

bucket: they are one more outcome, so that the head is exact and the student shapes its tail itself.
sampled: the drawn ids with their unbiased weights; the value is then the forward KL up to an
estimate of the teacher's entropy, see `softtargets.train.entropy`.
uniform: each has the same share.
label: the label has it all.
renormalize: there is none, and the kept entries are scaled up, which is biased: for comparison
only. The temperature may then be any where the grid is empty.
full: all ids are kept, at any temperature, for the distribution is recomputed from the store's
hidden states by a `teacher_head`; ids that only the student has get none of it, see
`FullTargets.dense_losses`.
By default it is sampled if there are samples, else bucket.
"""

_FORWARD_KL = ForwardKL()
_LARGEST_LOG_HEAD = -1e-7
"""The student's head is taken to leave at least this much, so that log(1 - head) stays finite."""
SMALLEST_LOG_REST = -24 * 0.6931471805599453
"""Where the teacher leaves nothing at all, 2^-24, float32's rounding of 1, stands for its tail in
divergences that would be infinite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseTargets:
    """What a student is compared with at N positions."""

    ids_NE: torch.Tensor
    log_targets_NE: torch.Tensor
    """Log-probabilities of entries; -inf for none."""
    log_rest_N: torch.Tensor
    """Log of the probability of all other ids; -inf for none."""
    tail: Tail
    """What becomes of that probability: with uniform every other id has a share of it; else it is
    one outcome more, and none unless the tail is a bucket."""
    entropy_N: torch.Tensor | None = None
    """The teacher's entropy, estimated; with sampled, None leaves the cross-entropy as it is."""

    def rows(self, chosen: slice) -> SparseTargets:
        """Return some positions."""
        return replace(
            self,
            ids_NE=self.ids_NE[chosen],
            log_targets_NE=self.log_targets_NE[chosen],
            log_rest_N=self.log_rest_N[chosen],
            entropy_N=None if self.entropy_N is None else self.entropy_N[chosen],
        )

    def losses(
        self, divergence: Divergence, student_NE: torch.Tensor, logsumexp_N: torch.Tensor
    ) -> torch.Tensor:
        """Return the student's divergence [N] in nats, for any tail but uniform.

        Only these two decide it: the logits of the entries and the logsumexp, both divided by the
        temperature. Its gradient follows from theirs, see `softtargets.train.fused`.

        With sampled targets it is the cross-entropy -sum t_hat log s, less the teacher's entropy:
        a constant, without which the gradient is the same to the bit.
        """
        log_s_NE = student_NE - logsumexp_N[:, None]
        is_none_NE = self.log_targets_NE == -torch.inf
        if self.tail == "sampled":
            surprise_NE = -log_s_NE.masked_fill(is_none_NE, 0)
            cross_N = (self.log_targets_NE.exp() * surprise_NE).sum(dim=1)
            return cross_N if self.entropy_N is None else cross_N - self.entropy_N
        # Equal log-probabilities make a term of 0; to mask the term itself would not keep an
        # infinite one out of the gradient.
        terms_NE = divergence.terms(
            self.log_targets_NE.masked_fill(is_none_NE, 0), log_s_NE.masked_fill(is_none_NE, 0)
        )
        head_N = terms_NE.sum(dim=1)
        log_head_N = log_s_NE.masked_fill(is_none_NE, -torch.inf).logsumexp(dim=1)
        log_rest_s_N = torch.log(-torch.expm1(log_head_N.clamp(max=_LARGEST_LOG_HEAD)))
        return head_N + divergence.terms(self._log_rest(divergence), log_rest_s_N)

    def dense_losses(self, divergence: Divergence, scaled_logits_NV: torch.Tensor) -> torch.Tensor:
        """Return the student's divergence [N] in nats when the tail is spread uniformly."""
        spread = replace(self, log_rest_N=self._log_rest(divergence))
        log_t_NV = spread.log_dense(scaled_logits_NV.shape[1])
        return divergence.terms(log_t_NV, scaled_logits_NV.log_softmax(dim=1)).sum(dim=1)

    def log_dense(self, num_ids: int) -> torch.Tensor:
        """Return the log-probabilities [N, V] of so many ids, the rest spread over all others.

        That of a bucket is one reading of many: what is not kept is not known.
        """
        is_entry_NE = self.log_targets_NE > -torch.inf
        num_others_N = (num_ids - is_entry_NE.sum(dim=1)).clamp(min=1)
        share_N1 = (self.log_rest_N - num_others_N.log())[:, None]
        log_t_NV = share_N1.expand(-1, num_ids).clone()
        # What is no entry stands at the place of the first, which is one, and is overwritten.
        ids_NE = torch.where(is_entry_NE, self.ids_NE, self.ids_NE[:, :1])
        own_NE = torch.where(is_entry_NE, self.log_targets_NE, self.log_targets_NE[:, :1])
        return log_t_NV.scatter_(1, ids_NE, own_NE)

    def _log_rest(self, divergence: Divergence) -> torch.Tensor:
        if needs_mass_everywhere(divergence):
            return self.log_rest_N.clamp(min=SMALLEST_LOG_REST)
        return self.log_rest_N


def check_tail(tail: Tail | None) -> None:
    """Check that a tail is one of the names, or left to the store.

    Raises:
        InputError: it is not.
    """
    if tail is not None:
        check_choice("tail", tail, get_args(Tail))


def choose_tail(
    batch: Batch,
    tail: Tail | None = None,
    divergence: Divergence | DivergenceName = _FORWARD_KL,
) -> Tail:
    """Return what becomes of the tail, by default that which suits the store.

    Raises:
        InputError: the store does not have what the tail needs, or the divergence is unsound with
            it; the message says why.
    """
    divergence = as_divergence(divergence)
    check_tail(tail)
    has_head, has_samples = "tail_mass" in batch, "sample_ids" in batch
    if tail is None:
        tail = "sampled" if has_samples and is_linear(divergence) else "bucket"
    kept = "samples" if not has_head else "a head and samples" if has_samples else "a head"
    if not (has_samples if tail == "sampled" else has_head):
        what = "ids drawn from the teacher" if tail == "sampled" else "a head of exact entries"
        raise InputError(
            f"tail {tail!r}",
            expected=f"targets with {what}",
            found=f"a store of {kept}",
            next_step="Build the store with --select hybrid, which has both.",
        )
    if tail == "sampled" and not is_linear(divergence):
        raise InputError(
            "tail 'sampled'",
            expected="forward KL, which is linear in the teacher's probabilities",
            found=f"{divergence.name}, whose expectation over samples is another loss",
            next_step="Use ForwardKL, or tail='bucket' on a store with a head.",
        )
    if tail in ("label", "renormalize") and needs_mass_everywhere(divergence):
        raise InputError(
            f"tail {tail!r}",
            expected="a divergence that is finite where the teacher has no mass",
            found=f"{divergence.name}, which is infinite outside the kept entries",
            next_step="Use tail='bucket' or 'uniform'.",
        )
    return tail


def sparse_targets(
    targets: BatchTargets, places_N: torch.Tensor, labels_N: torch.Tensor, tail: Tail
) -> SparseTargets:
    """Return the targets of single positions.

    bucket and uniform: t on K, R on the rest. renormalize: t / (1 - R) on K. label: t on K, and R
    more on the label. sampled: t on K, and the estimates on what was drawn.
    """
    ids_NE = targets.ids.flatten(0, 1)[places_N]
    log_t_NE = targets.logprobs.flatten(0, 1)[places_N]
    log_rest_N = targets.tail_logmass.flatten()[places_N]
    if tail == "renormalize":
        log_t_NE = log_t_NE - log_t_NE.logsumexp(dim=1, keepdim=True)
    elif tail == "label":
        is_label_NE = (ids_NE == labels_N[:, None]) & (log_t_NE > -torch.inf)
        raised_NE = torch.logaddexp(log_t_NE, log_rest_N[:, None])
        log_t_NE = torch.where(is_label_NE, raised_NE, log_t_NE)
        own_N = log_rest_N.masked_fill(is_label_NE.any(dim=1), -torch.inf)
        ids_NE = torch.cat([ids_NE, labels_N[:, None]], dim=1)
        log_t_NE = torch.cat([log_t_NE, own_N[:, None]], dim=1)
    elif tail == "sampled":
        assert targets.sample_ids is not None
        assert targets.sample_weights is not None
        drawn_NS = targets.sample_weights.flatten(0, 1)[places_N]
        ids_NE = torch.cat([ids_NE, targets.sample_ids.flatten(0, 1)[places_N]], dim=1)
        log_t_NE = torch.cat([log_t_NE, drawn_NS.log()], dim=1)
    if tail not in ("bucket", "uniform"):
        log_rest_N = torch.full_like(log_rest_N, -torch.inf)
    return SparseTargets(ids_NE=ids_NE, log_targets_NE=log_t_NE, log_rest_N=log_rest_N, tail=tail)
