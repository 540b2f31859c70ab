"""Golden stores: one of every kind of target, which every future release must read alike.

    python -m tests.golden_cases DIRECTORY [NAME...]

writes stores of the current format with the arrays a reader must find in them; by default of the
kinds and cases that have none yet. The committed ones,
in tests/store/golden, are never written again: a store that is there already is left alone.
`schemas/FORMAT.md` says what the arrays are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from softtargets.kinds import TargetSchema
from softtargets.store import Store
from softtargets.store.layer_file import encode_layers
from softtargets.store.output_head import encode_output_head
from softtargets.store.stored_layers import read_layers
from softtargets.store.versions import version_of
from softtargets.store.vocabulary import encode_vocabulary
from softtargets.store.writer import StoreWriter
from softtargets.targets import HeadWeights
from softtargets.targets.number_formats import unpack_numbers
from softtargets.tokenizer import Vocabulary
from softtargets.window import Window
from tests.windows import (
    KINDS,
    KINDS_OF_1_1,
    KINDS_OF_1_3,
    KINDS_OF_1_4,
    KINDS_OF_1_5,
    make_head,
    make_layers,
    make_vocabulary,
    make_window,
)

GOLDEN = Path(__file__).parent / "store" / "golden"
NUM_TOKENS = ((2, 9, 5), (16, 3))
"""Lengths of the windows in each shard."""


def write_store(
    directory: Path,
    schema: TargetSchema,
    windows: Iterable[list[Window]],
    head: HeadWeights | None = None,
    corpus: str = "random",
    vocabulary: Vocabulary | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Store:
    """Write windows, unit by unit, as a store of an invented teacher, by default with its head.

    `changes` are other fields of the identity.
    """
    counts = {"windows": 0, "tokens": 0}
    identity = identity_of(schema, corpus) | dict(changes or {})
    with StoreWriter.hold(directory, identity) as writer:
        if schema.output_head is not None:
            writer.write_output_head(encode_output_head(head or make_head()))
        if schema.layers is not None:
            writer.write_layers(encode_layers(make_layers()))
        if vocabulary is not None:
            writer.write_vocabulary(encode_vocabulary(vocabulary))
        unit = 0
        for unit, group in enumerate(windows):
            writer.write_unit(unit, group, {})
            counts["windows"] += len(group)
            counts["tokens"] += sum(len(window) for window in group)
        writer.commit(unit + 1, "invented", counts)
    return Store.open(directory)


def identity_of(schema: TargetSchema, corpus: str = "random") -> dict[str, Any]:
    """Return an identity with these targets, of a corpus of this name."""
    return {
        "format_version": version_of(schema),
        "teacher": {
            "architecture": "Invented",
            "weights_sha256": "a" * 64,
            "config_sha256": "c" * 64,
            "revision": None,
            "dtype": "float32",
            "attention": "none",
        },
        "tokenizer": {"sha256": "b" * 64, "vocab_size": schema.tokenizer_vocab_size},
        "corpus": {
            "files": [{"name": corpus, "num_bytes": 0, "sha256": "d" * 64}],
            "text_field": "text",
            "id_field": None,
        },
        "windowing": {"kind": "split", "sequence_length": 32},
        "targets": schema.to_dict(),
        "unit_tokens": 64,
        "compression": "zstd",
    }


def make_store(directory: Path, kind: str) -> Store:
    """Write a store of random windows of a kind."""
    # A kind keeps its numbers when later formats add others.
    versions = (KINDS_OF_1_1, KINDS_OF_1_3, KINDS_OF_1_4, KINDS_OF_1_5)
    kinds = [one for added in versions for one in sorted(added)]
    rng = np.random.default_rng(kinds.index(kind))
    schema = KINDS[kind]
    groups = [
        [
            make_window(rng, schema, num_tokens=length, scale=6, trained=0.7, ruled_out=0.2)[0]
            for length in lengths
        ]
        for lengths in NUM_TOKENS
    ]
    return write_store(directory, schema, groups, vocabulary=make_vocabulary())


def arrays_of(windows: Iterable[Window]) -> dict[str, np.ndarray]:
    """Return everything a reader finds in windows or a store: arrays by name, end to end."""
    parts: dict[str, list[Any]] = {}
    for window in windows:
        for name, value in _arrays(window).items():
            if value is not None:
                parts.setdefault(name, []).append(np.asarray(value))
    arrays = {
        name: np.stack(values) if values[0].ndim == 0 else np.concatenate(values)
        for name, values in parts.items()
    }
    if isinstance(windows, Store) and windows.targets.output_head is not None:
        weight_RD, bias_R = windows.output_head().rows()
        arrays["output_head_weight"] = weight_RD
        if bias_R is not None:
            arrays["output_head_bias"] = bias_R
    if isinstance(windows, Store) and windows.targets.layers is not None:
        for name, stored in read_layers(windows).tensors.items():
            arrays[f"layer_weight_{name}"] = unpack_numbers(stored)
    if isinstance(windows, Store) and windows.vocabulary is not None:
        vocabulary = windows.vocabulary
        arrays["vocabulary_ids"] = vocabulary.ids_N
        arrays["vocabulary_tokens"] = np.array(vocabulary.tokens)
        arrays["vocabulary_utf8"] = np.array(
            ["null" if one is None else one.hex() for one in vocabulary.utf8]
        )
    return arrays


def _arrays(window: Window) -> Mapping[str, Any]:
    targets, samples = window.targets, window.targets.samples
    kept_TK = np.isfinite(targets.logits_TK)
    return {
        "window_id": window.window_id,
        "source": window.source,
        "document_ids": "\n".join(window.document_ids),
        "offset": window.offset,
        "num_tokens": len(window),
        "num_targets": len(targets),
        "input_ids": window.input_ids_L,
        "segment_lengths": window.segment_lengths_S,
        "mask": window.mask_T,
        "target_positions": window.positions_T,
        "label_ids": window.label_ids_T,
        "encoder_input_ids": window.encoder_ids_M,
        "token_type_ids": window.token_types_L,
        "label_values": window.label_values_F,
        **{f"metadata_{name}": "\n".join(texts) for name, texts in window.metadata.items()},
        "num_entries": targets.num_entries_T,
        # An id past the count means nothing.
        "ids": np.where(kept_TK, targets.ids_TK, 0),
        "logits": targets.logits_TK,
        "tail_mass": targets.tail_mass_TG,
        "logsumexp": targets.logsumexp_TG,
        "label_logit": targets.label_logit_T,
        "label_rank": targets.label_rank_T,
        "num_samples": None if samples is None else samples.num_samples_T,
        "sample_ids": None if samples is None else samples.ids_S,
        "sample_counts": None if samples is None else samples.counts_S,
        "sample_logits": None if samples is None else samples.logits_S,
        "class_logits": targets.class_logits_TC,
        **{f"feature_{name}": values_RD for name, values_RD in targets.features.items()},
    }


def logprobs_of(store: Store) -> np.ndarray:
    """Return log-probabilities [targets, k, temperatures] of the entries; -inf where none is."""
    return np.concatenate(
        [
            np.stack(
                [window.targets.logprobs_TK(one) for one in store.targets.temperatures], axis=2
            )
            for window in store
        ]
    )
