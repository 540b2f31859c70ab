"""Attacks by numbers: stores whose checksums are right, and whose content cannot be."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from softtargets import SoftTargetDataset
from softtargets.capture import Draws, Hybrid, Sampled
from softtargets.errors import SoftTargetsError
from softtargets.hashes import hash_bytes
from softtargets.store.vocabulary import encode_vocabulary
from softtargets.stream.batch import Batch
from tests.attacks.attack import Attack, command
from tests.corruptions import Change, drop, forge_column, put
from tests.fakes import build_store
from tests.store.test_output_head import make_store
from tests.store.test_store import edit_manifest
from tests.windows import make_head, make_vocabulary

STORES: dict[str, dict[str, Any]] = {
    "steps": {"selection": Hybrid(k=8, draws=Draws(num=16))},
    "lossless": {"selection": Hybrid(k=8, draws=Draws(num=16)), "values": "float32"},
    "draws": {"selection": Sampled(draws=Draws(num=16))},
    "hidden states": {"hidden_states": True},
}
"""What is built, and forged."""

LABEL = 2
"""A target whose label is among the entries."""

NO_VALUES: tuple[tuple[str, str, str, Change], ...] = (
    ("an id above the vocabulary", "steps", "id_plane_1", put(255)),
    ("an input id above the vocabulary", "steps", "input_ids", put(100_000)),
    ("a negative input id", "steps", "input_ids", put(-1)),
    ("a mass of 7", "steps", "tail_mass_t1", put(7.0)),
    ("a negative mass", "steps", "tail_mass_t2", put(-0.5)),
    ("a mass that is NaN", "steps", "tail_mass_t1", put(np.nan)),
    ("a mass of 1", "steps", "tail_mass_t2", put(1.0)),
    ("a top logit that is NaN", "steps", "top_logit", put(np.nan)),
    ("an infinite top logit", "steps", "top_logit", put(np.inf)),
    ("a label's logit that is NaN", "steps", "label_logit", put(np.nan)),
    ("a label's rank beyond the vocabulary", "steps", "label_rank", put(300)),
    ("a negative rank", "steps", "label_rank", put(-1)),
    ("no entries", "steps", "num_entries", put(0)),
    ("more entries than are kept", "steps", "num_entries", put(9)),
    ("a missing escape", "steps", "escapes", drop()),
    ("a negative escape", "steps", "escapes", put(-3)),
    ("more steps that are escapes", "steps", "steps", put(255)),
    ("segments of 2^31 tokens", "steps", "segment_lengths", put(2**31 - 1)),
    ("a segment without tokens", "steps", "segment_lengths", put(0)),
    ("a negative segment", "steps", "segment_lengths", put(-5)),
    ("gaps past the vocabulary", "steps", "sample_gaps", put(290)),
    ("a gap of 2^31", "steps", "sample_gaps", put(2**31 - 1)),
    ("a negative gap", "steps", "sample_gaps", put(-1)),
    ("a missing gap", "steps", "sample_gaps", drop()),
    ("a draw above the top logit", "steps", "sample_steps", put(-100)),
    ("a count of 1000", "steps", "repeated_counts", put(1000)),
    ("a negative number of repeated ids", "steps", "num_repeated", put(-1)),
    ("a logit that is NaN", "lossless", "logits", put(255)),
    ("a draw's logit that is NaN", "lossless", "sample_logits", put(np.nan)),
    ("a logsumexp that is infinite", "draws", "logsumexp_t1", put(np.inf)),
    ("a draw's id out of the vocabulary", "draws", "sample_gaps", put(299, 3)),
    ("hidden states that are NaN", "hidden states", "feature_last_hidden", put(255)),
)
"""Name, store, column and change of values that no reader may be given."""

CONTRADICTIONS: tuple[tuple[str, str, str, Change], ...] = (
    ("a label's logit above the top one", "steps", "label_logit", put(99.0)),
    ("a label's logit far below its rank", "steps", "label_logit", put(-99.0, LABEL)),
    ("a label's logit of -inf", "steps", "label_logit", put(-np.inf, LABEL)),
    ("a rank that the entries contradict", "steps", "label_rank", put(299, LABEL)),
    ("a top logit that was raised", "lossless", "top_logit", put(99.0)),
    ("a tail without the mass of its draws", "steps", "tail_mass_t1", put(1e-9)),
    ("a tail with more mass than its ids can have", "steps", "tail_mass_t1", put(0.9999)),
    ("tails that do not rise with the temperature", "steps", "tail_mass_t2", put(1e-6)),
    ("a draw above the top logit, lossless", "lossless", "sample_logits", put(99.0)),
    ("a draw far above the entries", "steps", "sample_steps", put(0)),
    ("a logit that rises along the rank", "lossless", "logits", put(64)),
    ("an id twice", "steps", "id_plane_0", put(7)),
    ("logsumexps of two distributions", "draws", "logsumexp_t2", put(1.0)),
    ("a logsumexp below its draws", "draws", "logsumexp_t1", put(-5.0)),
    ("a negative offset", "steps", "offset", put(-4)),
)
"""Those that `verify` alone finds: every value could be true, and not all of them."""

KIND_VALUES = "values that are none: ids out of the vocabulary, masses of 7, NaN"
KIND_CONTRADICTIONS = "targets that contradict each other"


def _forged(kind: str, column: str, change: Change) -> Callable[[Path], None]:
    def prepare(directory: Path) -> None:
        store = build_store(directory, **STORES[kind])
        forge_column(store.root, column, change)

    return prepare


def train(directory: Path) -> None:
    """Read a store as a training does; an error of the package ends it with exit code 1."""
    try:
        for batch in SoftTargetDataset(directory / "store", batch_size=2):
            check_batch(batch)
    except SoftTargetsError as error:
        raise SystemExit(str(error)) from error


def train_on_the_rest(directory: Path) -> None:
    """Read what is left of a store where damage is skipped."""
    dataset = SoftTargetDataset(directory / "store", batch_size=2, on_error="skip")
    num_targets = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for batch in dataset:
            check_batch(batch)
            num_targets += batch["num_targets"]
    assert dataset.stats().skipped_windows > 0, "nothing was skipped"
    assert num_targets > 0, "nothing was left"


def check_batch(batch: Batch) -> None:
    """Check that a student can learn from a batch."""
    for temperature in batch["temperatures"]:
        targets = batch.soft_targets(temperature)
        assert not targets.logprobs.isnan().any()
        assert not targets.tail_logmass.isnan().any()
        for ids in (targets.ids, targets.sample_ids):
            if ids is not None and ids.numel():
                assert 0 <= int(ids.min()) <= int(ids.max()) < batch["vocab_size"]


def _forged_head(name: str) -> Callable[[Path], None]:
    """Return what makes a store that is right in all but a number of its output head."""

    def prepare(directory: Path) -> None:
        head = make_head()
        array = getattr(head, name).copy()
        array[3] = np.nan
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("softtargets.store.output_head._check_numbers", lambda *_: None)
            make_store(directory / "store", replace(head, **{name: array}))

    return prepare


def _forged_vocabulary(first: int, last: int) -> Callable[[Path], None]:
    def prepare(directory: Path) -> None:
        store = build_store(directory)
        vocabulary = make_vocabulary()
        ids_N = vocabulary.ids_N.copy()
        ids_N[0], ids_N[-1] = first, last
        content = encode_vocabulary(replace(vocabulary, ids_N=ids_N))
        (store.root / "vocabulary.parquet").write_bytes(content)
        described = {"num_bytes": len(content), "sha256": hash_bytes(content)}
        edit_manifest(store, lambda manifest: manifest.update(vocabulary=described))

    return prepare


Meeting = tuple[str, Callable[[Path], None], Literal["refused", "survived"]]

MEETINGS: tuple[Meeting, ...] = (
    ("verified", command("verify", "store"), "refused"),
    ("trained on", train, "refused"),
    ("skipped", train_on_the_rest, "survived"),
)
"""What meets values that no reader may be given, and what is to come of it."""

ATTACKS: tuple[Attack, ...] = (
    *(
        Attack(
            kind=KIND_VALUES,
            name=f"{name}, {verb}",
            prepare=prepare,
            is_shared=True,
            run=run,
            wanted=wanted,
        )
        for name, prepare in (
            (name, _forged(kind, column, change)) for name, kind, column, change in NO_VALUES
        )
        for verb, run, wanted in MEETINGS
    ),
    *(
        Attack(
            kind=KIND_CONTRADICTIONS,
            name=name,
            prepare=_forged(kind, column, change),
            run=command("verify", "store"),
        )
        for name, kind, column, change in CONTRADICTIONS
    ),
    *(
        Attack(
            kind=KIND_CONTRADICTIONS,
            name=f"an output head with {words} that are NaN",
            prepare=_forged_head(name),
            run=command("verify", "store"),
        )
        for words, name in (("weights", "weight_VD"), ("biases", "bias_V"))
    ),
    *(
        Attack(
            kind=KIND_CONTRADICTIONS,
            name=f"a vocabulary of ids from {first} to {last}",
            prepare=_forged_vocabulary(first, last),
            run=command("verify", "store"),
        )
        for first, last in ((-1, 299), (0, 256), (0, 2**31 - 1))
    ),
)
