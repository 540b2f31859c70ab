"""All parts of the targets of some positions, in their compact form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from softtargets.errors import InputError
from softtargets.kinds import TargetSchema
from softtargets.packing.features import PackedFeature, pack_feature
from softtargets.packing.head import PackedHead, pack_head
from softtargets.packing.samples import PackedSamples, highest_logits, pack_samples
from softtargets.targets import Float32, Int32, SoftTargets, temperature_index


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTargets:
    """The targets of T positions as they are stored; what `schema` does not name is None."""

    schema: TargetSchema
    num_positions: int
    head: PackedHead | None
    samples: PackedSamples | None
    top_logit_T: Float32 | None
    """The highest of the position's stored logits, exact."""
    tail_mass_TG: Float32 | None
    logsumexp_TG: Float32 | None
    label_logit_T: Float32 | None
    label_rank_T: Int32 | None
    class_logits_TC: Float32 | None
    features: Mapping[str, PackedFeature]

    def __len__(self) -> int:
        return self.num_positions

    def unpack(self) -> SoftTargets:
        """Return the targets to compute with.

        Raises:
            CorruptionError: columns do not fit each other.
        """
        ids_TK, logits_TK = self._entries()
        head, tail_mass_TG = self.head, self.tail_mass_TG
        num_temperatures = len(self.schema.temperatures)
        return SoftTargets(
            ids_TK=ids_TK,
            logits_TK=logits_TK,
            num_entries_T=np.zeros(len(self), np.int32) if head is None else head.num_entries_T,
            tail_mass_TG=np.ones((len(self), num_temperatures), np.float32)
            if tail_mass_TG is None
            else tail_mass_TG,
            temperatures=self.schema.temperatures,
            logsumexp_TG=self.logsumexp_TG,
            label_logit_T=self.label_logit_T,
            label_rank_T=self.label_rank_T,
            samples=None
            if self.samples is None
            else self.samples.unpack(self.num_draws_T, self.top_logit_T, self.schema.vocab_size),
            class_logits_TC=self.class_logits_TC,
            features={name: feature.unpack() for name, feature in self.features.items()},
        )

    @property
    def num_draws_T(self) -> Int32:
        """Return how many draws every position has: none from a tail without mass."""
        return num_draws(self.schema, self.tail_mass_TG, len(self))

    def _entries(self) -> tuple[Int32, Float32]:
        if self.head is None:
            return np.empty((len(self), 0), np.int32), np.empty((len(self), 0), np.float32)
        assert self.top_logit_T is not None
        return self.head.unpack(self.top_logit_T)


def num_draws(schema: TargetSchema, tail_mass_TG: Float32 | None, num_positions: int) -> Int32:
    """Return how many draws [T] every position has: none from a tail without mass."""
    assert schema.samples is not None
    draws_T = np.full(num_positions, schema.samples.num_draws, np.int32)
    if schema.samples.origin == "tail":
        assert tail_mass_TG is not None
        index = temperature_index(schema.temperatures, schema.samples.temperature)
        draws_T[tail_mass_TG[:, index] == 0] = 0
    return draws_T


def pack(targets: SoftTargets, schema: TargetSchema) -> PackedTargets:
    """Return `targets` in compact form.

    Raises:
        InputError: a part is missing, or cannot be stored in this form; the message says which.
    """
    _check_parts(targets, schema)
    top_logit_T = None
    if schema.head is not None:
        top_logit_T = targets.logits_TK[:, 0]
    elif schema.has_top_logit and targets.samples is not None:
        top_logit_T = highest_logits(targets.samples)
    tail_mass_TG = targets.tail_mass_TG if schema.head is not None else None
    return PackedTargets(
        schema=schema,
        num_positions=len(targets),
        head=None
        if schema.head is None
        else pack_head(
            targets.ids_TK,
            targets.logits_TK,
            targets.num_entries_T,
            schema.head,
            schema.vocab_size,
        ),
        samples=None
        if schema.samples is None or targets.samples is None
        else pack_samples(
            targets.samples,
            schema.samples,
            num_draws(schema, tail_mass_TG, len(targets)),
            top_logit_T,
        ),
        top_logit_T=top_logit_T,
        tail_mass_TG=tail_mass_TG,
        logsumexp_TG=targets.logsumexp_TG,
        label_logit_T=targets.label_logit_T,
        label_rank_T=targets.label_rank_T,
        class_logits_TC=targets.class_logits_TC,
        features={
            feature.name: pack_feature(targets.features[feature.name], feature)
            for feature in schema.features
        },
    )


def _check_parts(targets: SoftTargets, schema: TargetSchema) -> None:
    """Check that there is what the schema names, and nothing that it would lose."""
    has_logsumexp = schema.head is None and len(schema.temperatures) > 0
    is_found = {
        "samples": (schema.samples is not None, targets.samples is not None),
        "logsumexp": (has_logsumexp, targets.logsumexp_TG is not None),
        "label logits": (schema.label_logits, targets.label_logit_T is not None),
        "label ranks": (schema.label_logits, targets.label_rank_T is not None),
        "class logits": (schema.num_classes > 0, targets.class_logits_TC is not None),
        "head": (schema.head is not None, targets.ids_TK.shape[1] > 0),
    }
    is_found |= {
        f"feature {name}": (name in {one.name for one in schema.features}, name in targets.features)
        for name in sorted({one.name for one in schema.features} | set(targets.features))
    }
    wrong = [name for name, (wanted, found) in is_found.items() if wanted != found]
    if wrong or targets.temperatures != schema.temperatures:
        raise InputError(
            "targets",
            expected=f"{schema.describe()} at temperatures {schema.temperatures}",
            found=f"other targets: {', '.join(wrong) or targets.temperatures}",
            next_step="Pass exactly the parts that the schema names.",
        )
