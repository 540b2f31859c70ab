"""Random windows of every kind of target, and the targets as they were before packing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from softtargets.kinds import FeatureSchema, HeadSchema, SampleSchema, TargetSchema
from softtargets.store.layer_file import describe_layers
from softtargets.store.output_head import describe_output_head
from softtargets.targets import (
    Float32,
    HeadWeights,
    Int32,
    LayerWeights,
    Samples,
    SoftTargets,
    pack,
)
from softtargets.targets.number_formats import pack_bfloat16
from softtargets.tokenizer import Vocabulary
from softtargets.window import TokenWindow, Window, hash_window
from tests.threshold import threshold_in_numpy


def topk_schema(
    k: int = 8,
    *,
    vocab_size: int = 300,
    temperatures: tuple[float, ...] = (1.0, 2.0),
    lossless: bool = False,
) -> TargetSchema:
    """Return what `softtargets build` makes."""
    return TargetSchema(
        vocab_size=vocab_size,
        tokenizer_vocab_size=vocab_size,
        temperatures=temperatures,
        head=HeadSchema(max_entries=k, values="float32" if lossless else "steps"),
        label_logits=True,
    )


def head_schema(head: HeadWeights, k: int = 8) -> TargetSchema:
    """Return what `softtargets build --hidden-states` makes with a teacher that has this head."""
    described = describe_output_head(head)
    hidden = FeatureSchema(
        name="last_hidden", width=described.width, rows="targets", dtype=described.dtype
    )
    return replace(
        topk_schema(k, vocab_size=len(head.weight_VD)), features=(hidden,), output_head=described
    )


def _schema(**parts: object) -> TargetSchema:
    defaults = {"vocab_size": 300, "tokenizer_vocab_size": 300, "temperatures": (1.0, 2.0)}
    return TargetSchema(**{**defaults, **parts})  # type: ignore[arg-type]


def as_bfloat16(values: Float32) -> Float32:
    """Return numbers with their lower half cut away."""
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def make_head(vocab_size: int = 300, width: int = 6) -> HeadWeights:
    """Return an output head in bfloat16 that does everything a head may do."""
    rng = np.random.default_rng(0)
    return HeadWeights(
        weight_VD=as_bfloat16(rng.standard_normal((vocab_size, width)).astype(np.float32)),
        bias_V=as_bfloat16(rng.standard_normal(vocab_size).astype(np.float32)),
        dtype="bfloat16",
        scale=0.75,
        divisor=6.0,
        softcap=0.5,
    )


def make_layers() -> LayerWeights:
    """Return a layer of three in bfloat16, whose configuration has fractions and lists."""
    rng = np.random.default_rng(1)
    shapes = {"1.dense.weight": (6, 6), "1.dense.bias": (6,), "1.norm.weight": (6,)}
    return LayerWeights(
        numbers=(1,),
        num_layers=3,
        model_type="invented",
        config={"eps": 1e-12, "kinds": ["a", "\u00fc", None], "scale": 10000.0, "is_odd": True},
        dtype="bfloat16",
        tensors={
            name: pack_bfloat16(as_bfloat16(rng.standard_normal(shape).astype(np.float32)), name)
            for name, shape in shapes.items()
        },
    )


def make_vocabulary(num_tokens: int = 300) -> Vocabulary:
    """Return tokens with what is hard: a hole, bytes that are no character, an unknown text."""
    ids = [token_id for token_id in range(num_tokens) if token_id != 7]
    return Vocabulary(
        ids_N=np.array(ids, np.int32),
        tokens=tuple(f"\u0120token-{token_id}" for token_id in ids),
        utf8=tuple(
            {3: None, 4: b"\xc3", 5: b"\xa9", 6: b""}.get(token_id, f" token-{token_id}".encode())
            for token_id in ids
        ),
    )


_HEAD = HeadSchema(max_entries=8)
_DRAWS = SampleSchema(num_draws=32, origin="all", temperature=1.0)

KINDS_OF_1_1 = {
    "topk": topk_schema(),
    "topk-lossless": topk_schema(lossless=True),
    "topk-of-262144": topk_schema(4, vocab_size=262_144),
    "topk-without-tail": _schema(head=_HEAD, temperatures=()),
    "sampled": _schema(samples=_DRAWS, label_logits=True),
    "sampled-with-logits": _schema(
        samples=SampleSchema(num_draws=300, origin="all", temperature=2.0, values="steps")
    ),
    "hybrid": _schema(
        head=_HEAD,
        samples=SampleSchema(num_draws=16, origin="tail", temperature=1.0, values="float32"),
        label_logits=True,
    ),
    "classes-of-windows": _schema(
        num_classes=5, temperatures=(), predicts="window", label_ids=True
    ),
    "classes-of-tokens": _schema(num_classes=3, temperatures=(), predicts="token"),
    "masked-tokens": _schema(
        head=_HEAD, predicts="token", positions="listed", label_ids=True, label_logits=True
    ),
    "assistant-tokens": _schema(head=_HEAD, positions="listed", label_logits=True),
    "translation": _schema(head=_HEAD, encoder_input=True, label_logits=True),
    "features": _schema(
        head=_HEAD,
        features=(
            FeatureSchema(name="layer_3", width=7, rows="tokens", dtype="float16"),
            FeatureSchema(name="layer_6", width=5, rows="targets", dtype="int8"),
            FeatureSchema(name="pooled", width=4, rows="window", dtype="int8"),
        ),
    ),
    "features-alone": _schema(
        features=(FeatureSchema(name="last_hidden", width=16, rows="targets", dtype="float16"),)
    ),
    "with-metadata": _schema(head=_HEAD, metadata=("language", "url")),
    "with-output-head": _schema(
        head=_HEAD,
        features=(
            FeatureSchema(name="last_hidden", width=6, rows="targets", dtype="bfloat16"),
            FeatureSchema(name="layer_1", width=3, rows="tokens", dtype="float32"),
        ),
        output_head=describe_output_head(make_head()),
        label_logits=True,
    ),
}
_LISTS = HeadSchema(max_entries=9, form="lists", top_logit=False)
_THRESHOLD = SampleSchema(num_draws=9, origin="tail", temperature=1.0, design="threshold")
_STEP = 1 / 64
KINDS_OF_1_3 = {
    "threshold": _schema(head=_LISTS, samples=_THRESHOLD, temperatures=(1.0,), grid_step=_STEP),
    "threshold-of-two-temperatures": _schema(
        head=replace(_LISTS, max_entries=24),
        samples=replace(_THRESHOLD, num_draws=24, temperature=2.0, values="steps", step=1 / 16),
        grid_step=_STEP,
        label_logits=True,
        label_step=1 / 16,
    ),
    "threshold-lossless": _schema(
        head=replace(_LISTS, values="float32"),
        samples=replace(_THRESHOLD, values="float32"),
        label_logits=True,
    ),
    "topk-in-lists": _schema(
        head=replace(_LISTS, max_entries=8, top_logit=True),
        samples=SampleSchema(num_draws=16, origin="tail", temperature=1.0, values="steps"),
        grid_step=_STEP,
        label_logits=True,
        label_step=1 / 16,
    ),
    "topk-in-steps": _schema(
        head=replace(_HEAD, top_logit=False), grid_step=_STEP, label_logits=True, label_step=1 / 16
    ),
    "systematic": _schema(samples=replace(_DRAWS, design="systematic")),
}
_CLASSES = {"num_classes": 3, "temperatures": (), "class_names": ("yes", "no", "\u00fcber")}
KINDS_OF_1_4 = {
    "labelled-pairs": _schema(
        **_CLASSES,
        predicts="window",
        label_ids=True,
        partly_labelled=True,
        token_types=True,
        pad_token_id=7,
    ),
    "labelled-words": _schema(
        **_CLASSES, predicts="token", positions="listed", label_ids=True, partly_labelled=True
    ),
    "many-labels": _schema(
        **_CLASSES,
        predicts="window",
        problem="multi_label",
        label_values=True,
        partly_labelled=True,
    ),
    "scores": _schema(
        num_classes=1,
        temperatures=(),
        predicts="window",
        problem="regression",
        label_values=True,
    ),
}
KINDS_OF_1_5 = {
    "layers-in-float8": _schema(
        head=_HEAD,
        features=(
            FeatureSchema(name="layer_0", width=7, rows="tokens", dtype="float8"),
            FeatureSchema(name="layer_12", width=5, rows="targets", dtype="float8"),
        ),
    ),
    "layers-to-run-again": _schema(
        **_CLASSES,
        predicts="window",
        features=(FeatureSchema(name="layer_1", width=6, rows="tokens", dtype="bfloat16"),),
        layers=describe_layers(make_layers()),
    ),
}
KINDS = {**KINDS_OF_1_1, **KINDS_OF_1_3, **KINDS_OF_1_4, **KINDS_OF_1_5}
"""One schema for every kind of target that the format knows."""


def make_window(
    rng: np.random.Generator,
    schema: TargetSchema | None = None,
    *,
    num_tokens: int = 6,
    scale: float = 3.0,
    trained: float = 1.0,
    ruled_out: float = 0.0,
) -> tuple[Window, SoftTargets]:
    """Return a window with random targets, and the targets as they were before packing.

    Args:
        rng: what decides it.
        schema: of the targets.
        num_tokens: length of the window.
        scale: spread of the logits.
        trained: share of the targets in the mask.
        ruled_out: share of the targets where all but three logits are -inf.
    """
    schema = schema or topk_schema()
    tokens = make_tokens(rng, schema, num_tokens, trained)
    targets = make_targets(rng, schema, tokens, scale, ruled_out)
    return Window.of(tokens, pack(targets, schema)), targets


def make_tokens(
    rng: np.random.Generator, schema: TargetSchema, num_tokens: int, trained: float
) -> TokenWindow:
    """Return random tokens of two documents; `trained` is the share of targets in the mask."""
    input_ids_L = rng.integers(0, schema.vocab_size, num_tokens).astype(np.int32)
    first = int(rng.integers(1, num_tokens))
    num_targets = {"next_token": num_tokens - 1, "token": num_tokens, "window": 1}[schema.predicts]
    positions_T, label_ids_T, encoder_ids_M = None, None, None
    if schema.positions == "listed":
        is_listed = rng.random(num_targets) < 0.4
        is_listed[rng.integers(num_targets)] = True
        positions_T = np.flatnonzero(is_listed).astype(np.int32)
        num_targets = len(positions_T)
    if schema.label_ids:
        label_ids_T = rng.integers(0, schema.num_labels, num_targets).astype(np.int32)
        if schema.partly_labelled:
            label_ids_T[rng.random(num_targets) < 0.4] = -1
    if schema.encoder_input:
        encoder_ids_M = rng.integers(0, schema.vocab_size, 2 * num_tokens).astype(np.int32)
    token_types_L, label_values_F = None, None
    if schema.token_types:
        token_types_L = rng.integers(0, 2, num_tokens).astype(np.int32)
    if schema.label_values:
        label_values_F = _label_values(rng, schema, num_targets)
    segment_lengths_S = np.array([first, num_tokens - first], np.int32)
    mask_T = rng.random(num_targets) < trained
    return TokenWindow(
        window_id=hash_window(
            input_ids_L,
            segment_lengths_S,
            mask_T,
            positions_T=positions_T,
            label_ids_T=label_ids_T,
            encoder_ids_M=encoder_ids_M,
            token_types_L=token_types_L,
            label_values_F=label_values_F,
        ),
        input_ids_L=input_ids_L,
        segment_lengths_S=segment_lengths_S,
        mask_T=mask_T,
        document_ids=("0", "1"),
        offset=3,
        source="random",
        positions_T=positions_T,
        label_ids_T=label_ids_T,
        encoder_ids_M=encoder_ids_M,
        token_types_L=token_types_L,
        label_values_F=label_values_F,
        metadata={name: (f"{name} of 0", "") for name in schema.metadata},
    )


def _label_values(rng: np.random.Generator, schema: TargetSchema, num_targets: int) -> Float32:
    shape = (num_targets, schema.num_classes)
    values_TC = rng.standard_normal(shape).astype(np.float32)
    if schema.problem == "multi_label":
        values_TC = (values_TC > 0).astype(np.float32)
    if schema.partly_labelled:
        values_TC[rng.random(num_targets) < 0.4] = np.nan
    return values_TC.ravel()


def of_own_documents(windows: Iterable[Window]) -> list[Window]:
    """Return windows that each begin with a document of their own, so that they can be split."""
    return [
        replace(window, document_ids=(f"own {number}", *window.document_ids[1:]))
        for number, window in enumerate(windows)
    ]


def make_targets(
    rng: np.random.Generator,
    schema: TargetSchema,
    tokens: TokenWindow,
    scale: float,
    ruled_out: float,
) -> SoftTargets:
    """Return random targets with every part of the schema."""
    num_targets = len(tokens.mask_T)
    logits_TV = (scale * rng.standard_normal((num_targets, schema.vocab_size))).astype(np.float32)
    for row in np.flatnonzero(rng.random(num_targets) < ruled_out):
        possible = rng.choice(schema.vocab_size, 3, replace=False)
        logits_TV[row, np.isin(np.arange(schema.vocab_size), possible, invert=True)] = -np.inf
    k = schema.head.max_entries if schema.head else 0
    labels_T = _labels(tokens, schema)
    if schema.head and schema.samples and schema.samples.design == "threshold":
        uniform_T, grid = rng.random(num_targets), schema.temperatures
        chosen = threshold_in_numpy(
            logits_TV, labels_T, uniform_T, schema.head, schema.samples, grid
        )
    else:
        chosen = select_in_numpy(logits_TV, labels_T, k, schema.temperatures)
    class_logits_TC = None
    if schema.num_classes:
        shape = (num_targets, schema.num_classes)
        class_logits_TC = rng.standard_normal(shape).astype(np.float32)
    num_rows = {"tokens": len(tokens), "targets": num_targets, "window": 1}
    return SoftTargets(
        ids_TK=chosen.ids_TK,
        logits_TK=chosen.logits_TK,
        num_entries_T=chosen.num_entries_T,
        tail_mass_TG=chosen.tail_mass_TG,
        temperatures=schema.temperatures,
        logsumexp_TG=_logsumexp(logits_TV, schema),
        label_logit_T=chosen.label_logit_T if schema.label_logits else None,
        label_rank_T=chosen.label_rank_T if schema.label_logits else None,
        samples=chosen.samples or _draw(rng, logits_TV, chosen.ids_TK, schema),
        class_logits_TC=class_logits_TC,
        features={one.name: _vectors(rng, num_rows[one.rows], one) for one in schema.features},
    )


def _vectors(rng: np.random.Generator, num_rows: int, feature: FeatureSchema) -> Float32:
    values_RD = rng.standard_normal((num_rows, feature.width)).astype(np.float32)
    return as_bfloat16(values_RD) if feature.dtype == "bfloat16" else values_RD


def select_in_numpy(
    logits_TV: np.ndarray, labels_T: np.ndarray, k: int, temperatures: tuple[float, ...]
) -> SoftTargets:
    """Return top-k targets, in float64: the reference of `TopK.select`."""
    wide_TV = logits_TV.astype(np.float64)
    ids_TK = np.stack([_highest(wide_V, k) for wide_V in wide_TV])
    tail_mass_TG = np.empty((len(logits_TV), len(temperatures)), np.float32)
    for index, temperature in enumerate(temperatures):
        weights_TV = np.exp((wide_TV - wide_TV.max(axis=1, keepdims=True)) / temperature)
        sum_T = weights_TV.sum(axis=1)
        np.put_along_axis(weights_TV, ids_TK, 0, axis=1)
        tail_mass_TG[:, index] = weights_TV.sum(axis=1) / sum_T
    label_logit_T = np.take_along_axis(logits_TV, labels_T[:, None], axis=1)[:, 0]
    logits_TK = np.take_along_axis(logits_TV, ids_TK, axis=1)
    return SoftTargets(
        ids_TK=ids_TK.astype(np.int32),
        logits_TK=logits_TK,
        num_entries_T=np.isfinite(logits_TK).sum(axis=1).astype(np.int32),
        tail_mass_TG=tail_mass_TG,
        temperatures=temperatures,
        label_logit_T=label_logit_T,
        label_rank_T=(logits_TV > label_logit_T[:, None]).sum(axis=1).astype(np.int32),
    )


def _highest(values_V: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the k highest values, equal ones by rising place."""
    least = np.partition(values_V, len(values_V) - k)[len(values_V) - k] if k else np.inf
    places = np.flatnonzero(values_V >= least)
    return places[np.argsort(-values_V[places], kind="stable")[:k]]


def _labels(tokens: TokenWindow, schema: TargetSchema) -> Int32:
    if tokens.label_ids_T is not None and not schema.num_classes:
        return tokens.label_ids_T
    if schema.predicts != "next_token":
        return np.zeros(len(tokens.mask_T), np.int32)
    at = np.arange(len(tokens) - 1) if tokens.positions_T is None else tokens.positions_T
    return tokens.input_ids_L[at + 1]


def _logsumexp(logits_TV: np.ndarray, schema: TargetSchema) -> np.ndarray | None:
    if schema.head is not None or not schema.temperatures:
        return None
    columns = [
        np.logaddexp.reduce(logits_TV.astype(np.float64) / one, axis=1)
        for one in schema.temperatures
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _draw(
    rng: np.random.Generator, logits_TV: np.ndarray, head_ids_TK: Int32, schema: TargetSchema
) -> Samples | None:
    """Return draws from the whole softmax or its tail, counted in the order of the format."""
    if schema.samples is None:
        return None
    ids, counts, logits = [], [], []
    for logits_V, head_ids_K in zip(logits_TV, head_ids_TK, strict=True):
        below_V = logits_V.astype(np.float64) - logits_V.max()
        weights_V = np.exp(below_V / schema.samples.temperature)
        if schema.samples.origin == "tail":
            weights_V[head_ids_K] = 0
        drawn = np.empty(0, np.int64)
        if weights_V.sum() > 0:
            shares_V = weights_V / weights_V.sum()
            num = schema.samples.num_draws
            if schema.samples.design == "systematic":
                places = (np.arange(num) + rng.random()) / num
                drawn = np.searchsorted(np.cumsum(shares_V) / shares_V.sum(), places, side="right")
            else:
                drawn = rng.choice(len(logits_V), num, p=shares_V)
        own_ids, own_counts = np.unique(drawn, return_counts=True)
        order = np.argsort(own_counts == 1, kind="stable")
        ids.append(own_ids[order])
        counts.append(own_counts[order])
        logits.append(logits_V[own_ids[order]])
    return Samples(
        num_samples_T=np.array([len(one) for one in ids], np.int32),
        ids_S=np.concatenate(ids).astype(np.int32),
        counts_S=np.concatenate(counts).astype(np.int32),
        logits_S=None if schema.samples.values == "none" else np.concatenate(logits),
    )
