from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from softtargets.errors import InputError
from softtargets.kinds import (
    FeatureSchema,
    HeadSchema,
    HeadWeightsSchema,
    SampleSchema,
    TargetSchema,
)
from softtargets.store.json_schemas import check_schema
from softtargets.targets import pack
from tests.golden import identity_of
from tests.windows import KINDS, make_window

HEAD = HeadSchema(max_entries=8)
DRAWS = SampleSchema(num_draws=4, origin="all", temperature=1.0)
TAIL = SampleSchema(num_draws=4, origin="tail", temperature=1.0)
LAYER = FeatureSchema(name="layer_1", width=2, rows="tokens", dtype="int8")

HIDDEN = FeatureSchema(name="last_hidden", width=3, rows="targets", dtype="bfloat16")
WEIGHTS = HeadWeightsSchema(width=3, dtype="bfloat16", sha256="e" * 64)


def schema_of(**parts: Any) -> TargetSchema:
    defaults: dict[str, Any] = {
        "vocab_size": 300,
        "tokenizer_vocab_size": 300,
        "temperatures": (1.0,),
    }
    return TargetSchema(**(defaults | parts))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_json_form_follows_the_schema_and_comes_back(kind: str) -> None:
    schema = KINDS[kind]
    check_schema(identity_of(schema), "identity", "here")
    assert TargetSchema.from_dict(schema.to_dict()) == schema


@pytest.mark.parametrize(
    ("parts", "promise"),
    [
        ({}, "a head, samples, class logits or features"),
        ({"head": HEAD, "temperatures": (1.0, 1.0000001)}, "temperatures that differ in 6 digits"),
        ({"head": HeadSchema(max_entries=301)}, "as many entries in a head as the vocabulary"),
        ({"samples": DRAWS, "temperatures": (2.0,)}, "drawn at a temperature of the grid"),
        ({"samples": TAIL}, "samples of a tail beside a head"),
        ({"head": HEAD, "num_classes": 2, "temperatures": ()}, "class logits without head"),
        ({"num_classes": 2}, "class logits without head, samples, temperatures"),
        ({"num_classes": 2, "temperatures": (), "label_logits": True}, "class logits without"),
        ({"head": HEAD, "label_ids": True}, "label ids only where the label is not the next"),
        ({"head": HEAD, "predicts": "token", "label_logits": True}, "only where there are labels"),
        ({"head": HEAD, "predicts": "window", "positions": "listed"}, "listed positions only"),
        ({"features": (LAYER, LAYER)}, "features whose columns differ"),
        ({"head": HEAD, "output_head": WEIGHTS}, "a feature last_hidden of each target"),
        ({"features": (LAYER,), "output_head": WEIGHTS}, "a feature last_hidden of each target"),
        *[
            ({"features": (replace(HIDDEN, **change),), "output_head": WEIGHTS}, "as wide and in")
            for change in ({"width": 4}, {"rows": "window"}, {"dtype": "float32"})
        ],
        (
            {
                "features": (
                    LAYER,
                    FeatureSchema(name="layer_1_scale", width=2, rows="tokens", dtype="int8"),
                )
            },
            "features whose columns differ",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: dict[str, Any], promise: str) -> None:
    with pytest.raises(InputError, match=promise):
        schema_of(**parts)


@pytest.mark.parametrize(
    ("stored", "packed_as", "named"),
    [
        ("hybrid", "topk", "samples"),
        ("topk", "hybrid", "samples"),
        ("sampled", "topk", "logsumexp, samples, head"),
        ("features", "topk", "feature layer_3"),
        ("topk-without-tail", "topk", "label logits"),
    ],
)
def test_a_part_too_many_or_too_few_is_refused(
    rng: np.random.Generator, stored: str, packed_as: str, named: str
) -> None:
    _, targets = make_window(rng, KINDS[stored])
    with pytest.raises(InputError, match="Pass exactly the parts") as caught:
        pack(targets, KINDS[packed_as])
    for name in named.split(", "):
        assert name in caught.value.found


def test_it_says_what_is_stored() -> None:
    assert KINDS["hybrid"].describe() == "top 8 logits within 0.03125 nat, 16 draws of the tail"
    assert KINDS["features-alone"].describe() == "last_hidden [16] float16"
    described = KINDS["with-output-head"].describe()
    assert described.endswith(", last_hidden [6] bfloat16, layer_1 [3] float32, the output head")
    assert KINDS["topk-lossless"].describe() == "top 8 logits lossless"


def test_what_a_head_does_not_do_is_left_out() -> None:
    assert WEIGHTS.to_dict() == {"width": 3, "dtype": "bfloat16", "sha256": "e" * 64}
    every = replace(WEIGHTS, bias=True, scale=0.5, divisor=2.0, softcap=3.0)
    assert set(every.to_dict()) - set(WEIGHTS.to_dict()) == {"bias", "scale", "divisor", "softcap"}
