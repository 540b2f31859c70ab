from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from softtargets.errors import InputError
from softtargets.kinds import SampleSchema, TargetSchema
from softtargets.report.facts import entropy_kind, facts_of
from softtargets.report.target_statistics import RANK_EDGES, measure
from softtargets.store import Store
from softtargets.window import Window
from tests.golden import make_store
from tests.windows import KINDS, make_window, topk_schema


def trained(store: Store, name: str) -> np.ndarray:
    """Return an array of the targets, of those that a student is trained on."""
    return np.concatenate([getattr(one.targets, name)[one.mask_T] for one in store])


def _draws(origin: Literal["all", "tail"]) -> SampleSchema:
    return SampleSchema(num_draws=20, origin=origin, temperature=1.0, values="float32")


def true_entropy(window: Window, temperature: float) -> np.ndarray:
    """Return the entropy of every target of a window that keeps the whole vocabulary."""
    scaled_TV = window.targets.logits_TK.astype(np.float64) / temperature
    p_TV = np.exp(scaled_TV - scaled_TV.max(axis=1, keepdims=True))
    p_TV /= p_TV.sum(axis=1, keepdims=True)
    return np.asarray(-(p_TV * np.log(p_TV)).sum(axis=1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["topk", "hybrid", "masked-tokens", "assistant-tokens"])
def test_distributions_are_those_of_the_decoded_targets(tmp_path: Path, kind: str) -> None:
    store = make_store(tmp_path / "store", kind)
    found = measure(store, 100)
    tail_TG, rank_T = trained(store, "tail_mass_TG"), trained(store, "label_rank_T")
    for index, one in enumerate(found.tail_mass):
        own = tail_TG[:, index]
        bins = zip(one.edges[:-1], one.edges[1:], strict=True)
        assert one.counts.tolist() == [
            int(((own >= low) & (own < high)).sum()) for low, high in bins
        ]
        assert one.num_below == (own < one.edges[0]).sum()
        assert one.num_above == (own >= one.edges[-1]).sum()
        assert one.mean == pytest.approx(own.astype(np.float64).mean())
    assert found.label_ranks is not None
    ends = (*RANK_EDGES[1:], np.inf)
    expected = [
        int(((rank_T >= a) & (rank_T < b)).sum()) for a, b in zip(RANK_EDGES, ends, strict=True)
    ]
    assert found.label_ranks.tolist() == expected
    assert found.total.num_top == (rank_T == 0).sum()
    assert found.num_entries is not None
    assert (
        found.num_entries.tolist()
        == np.bincount(trained(store, "num_entries_T"), minlength=9).tolist()
    )


def test_the_surprise_is_that_of_the_whole_vocabulary(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    schema = topk_schema(5, vocab_size=5, lossless=True)
    window, _ = make_window(rng, schema, num_tokens=50)
    facts = facts_of(window, schema)
    labels_T = window.input_ids_L[1:]
    logits_TV = np.empty((49, 5))
    np.put_along_axis(logits_TV, window.targets.ids_TK, window.targets.logits_TK, axis=1)
    for index, temperature in enumerate(schema.temperatures):
        scaled_TV = logits_TV / temperature
        logprob_T = scaled_TV[np.arange(49), labels_T] - np.log(np.exp(scaled_TV).sum(axis=1))
        assert facts.label_logprob_TG is not None
        np.testing.assert_allclose(facts.label_logprob_TG[:, index], logprob_T, atol=1e-4)
    assert facts.is_top_T is not None
    assert facts.is_top_T.any()
    np.testing.assert_array_equal(facts.is_top_T, logits_TV.argmax(axis=1) == labels_T)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_entropy_is_a_bound_or_an_estimate_without_bias(temperature: float) -> None:
    everything = topk_schema(300, lossless=True)
    head = topk_schema(8, lossless=True)
    sampled = replace(head, head=None, label_logits=False, samples=_draws("all"))
    hybrid = replace(
        head,
        samples=_draws("tail"),
    )
    assert [entropy_kind(one) for one in (head, sampled, hybrid)] == [
        "bound",
        "estimate",
        "estimate",
    ]
    index = everything.temperatures.index(temperature)

    def entropy(schema: TargetSchema) -> np.ndarray:
        # The same seed makes the same logits, whatever is kept of them.
        window, _ = make_window(np.random.default_rng(5), schema, num_tokens=2000, scale=1.5)
        found = facts_of(window, schema).entropy_TG
        assert found is not None
        return np.asarray(found[:, index])

    window, _ = make_window(np.random.default_rng(5), everything, num_tokens=2000, scale=1.5)
    truth_T = true_entropy(window, temperature)
    np.testing.assert_allclose(entropy(everything), truth_T, atol=1e-3)
    assert (entropy(head) < truth_T).all()
    for schema in (sampled, hybrid):
        error_T = entropy(schema) - truth_T
        assert abs(error_T.mean()) < 4 * error_T.std() / np.sqrt(len(error_T))


def test_a_sample_is_spread_over_the_store(store: Store) -> None:
    found = measure(store, 3)
    assert found.total.num_windows == 3
    assert found.all_windows == len(store)
    middles = [(2 * place + 1) * len(store) // 6 for place in range(3)]
    windows = list(store)
    assert found.total.num_targets == sum(len(windows[place].mask_T) for place in middles)
    with pytest.raises(InputError, match="a positive number of windows"):
        measure(store, 0)


def test_sources_add_up_to_all(store: Store) -> None:
    found = measure(store, len(store))
    assert list(found.sources) == ["corpus.jsonl"]
    assert found.sources["corpus.jsonl"] == found.total
    assert found.total.num_targets == store.num_positions


@pytest.mark.slow
def test_what_a_kind_does_not_tell_is_left_away(tmp_path: Path) -> None:
    found = {kind: measure(make_store(tmp_path / kind, kind), 100) for kind in KINDS}
    assert {kind for kind, one in found.items() if not one.tail_mass} == {
        "topk-without-tail", "sampled", "systematic", "sampled-with-logits", "classes-of-windows",
        "classes-of-tokens", "features-alone", "labelled-pairs", "labelled-words", "many-labels",
        "scores", "layers-to-run-again",
    }  # fmt: skip
    assert {kind for kind, one in found.items() if one.entropy_kind is None} == {
        "topk-without-tail", "sampled", "systematic", "features-alone", "scores",
    }  # fmt: skip
    assert {kind for kind, one in found.items() if not one.has_top} == {
        "sampled-with-logits", "systematic", "classes-of-tokens", "features-alone", "scores",
        "layers-to-run-again",
    }  # fmt: skip
