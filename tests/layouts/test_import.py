"""Lists that other tools have stored, as stores; and stores that went to a layout and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch

from softtargets import SoftTargetDataset, collate, distillation_loss
from softtargets.capture import Corpus, Hybrid, Windowing
from softtargets.errors import (
    CorpusError,
    IdentityError,
    InputError,
    TemperatureError,
)
from softtargets.layouts.axolotl import Axolotl
from softtargets.layouts.distillkit import DistillKit
from softtargets.layouts.distillkit_compression import Compression
from softtargets.layouts.token_logits import TokenLogits
from softtargets.store import (
    Stated,
    Store,
    export_axolotl,
    export_distillkit,
    export_plain,
    import_lists,
    import_plain,
    merge_stores,
    verify,
)
from softtargets.store.writer import StoreWriter
from softtargets.stream import Mixture
from tests.benchmarks.formats import TRIPS, measure
from tests.cli.test_commands import run
from tests.fakes import TEXTS, build_store, byte_tokenizer, shard_bytes, write_corpus
from tests.golden import arrays_of, make_store, write_store
from tests.layouts.readers import (
    FULL,
    LOGITS,
    LOGPROBS,
    RENORMALISED,
    listed,
    token_logits,
    write_rows,
)
from tests.plain_reader import read_store
from tests.windows import KINDS, make_window

# From a store to a layout and back.


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"topk-of-262144"}))
def test_plain_brings_every_kind_back(kind: str, tmp_path: Path) -> None:
    """All arrays are the same; of lossless values within float32's rounding."""
    store = make_store(tmp_path / "store", kind)
    back = import_plain([export_plain(store.root, tmp_path / "plain")], tmp_path / "back")
    assert verify(back.root).is_sound
    expected, found = arrays_of(store), arrays_of(back)
    assert set(expected) == set(found)
    for name, array in expected.items():
        if name == "logits" and kind == "topk-lossless":
            np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-5)
        elif name.startswith("feature_"):
            np.testing.assert_allclose(found[name], array, rtol=1e-6)
        else:
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    identity = dict(back.manifest.identity)
    [step] = identity.pop("derived")
    assert identity == store.manifest.identity
    assert (step["operation"], step["fingerprint"]) == ("import", store.fingerprint)
    assert [file["name"] for file in step["files"]] == [
        "part-000000.parquet",
        "part-000001.parquet",
    ]
    assert (back.manifest.teacher, back.manifest.corpus) == ("invented", store.manifest.corpus)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TRIPS))
@pytest.mark.parametrize("kind", ["topk", "float32", "packed", "chat", "hybrid"])
def test_a_trip_costs_what_it_is_said_to_cost(kind: str, name: str, tmp_path: Path) -> None:
    corpus = Corpus(paths=(write_corpus(tmp_path / "two.jsonl", TEXTS[:2]),))
    changes: dict[str, dict[str, Any]] = {
        "topk": {},
        "float32": {"values": "float32"},
        "packed": {"windowing": Windowing(sequence_length=200, kind="pack")},
        "hybrid": {"selection": Hybrid(k=8)},
    }
    if kind == "chat":
        store = make_store(tmp_path / "store", "assistant-tokens")
    else:
        store = build_store(tmp_path, corpus=corpus, **changes[kind])
    trip = measure(store, name, tmp_path)
    assert (trip.num_changed, trip.num_top) == (0, 0)
    is_half = name == "DistillKit, float16"
    # Of lossless values the imported store keeps steps: within half a step of each other, and
    # what all sum to moves by as much at most.
    steps = 1 / 16 if kind == "float32" and name != "plain" else 0
    assert trip.largest <= steps + (2e-2 if is_half else 4e-6)
    assert (trip.largest_tail is None) == (name == "axolotl, renormalised")
    if trip.largest_tail is not None:
        assert trip.largest_tail <= (4e-3 if is_half else 1e-6)


def test_the_card_says_what_is_known(store: Store, tmp_path: Path) -> None:
    exported = export_axolotl(store.root, tmp_path / "lists", values="full")
    back = import_lists([exported], tmp_path / "back", Axolotl(), FULL)
    card = (back.root / "README.md").read_text()
    assert "- **Imported**: from `axolotl`, `full` log-probabilities at temperature 1;" in card
    assert "what the imported ones leave of 1, within" in card
    assert "as the teacher gave them" not in card
    assert "before anything was rounded" not in card


@pytest.mark.slow
def test_windows_of_one_document_keep_their_ids(store: Store, tmp_path: Path) -> None:
    for written, layout in (
        (export_axolotl(store.root, tmp_path / "a", values="full"), Axolotl()),
        (
            export_distillkit(store.root, tmp_path / "d"),
            DistillKit(compression=Compression(d=300, k=8, exact_k=8)),
        ),
    ):
        back = import_lists([written], tmp_path / f"{layout.name}-back", layout, FULL)
        assert [one.window_id for one in back] == [one.window_id for one in store]


# What the layouts mean.


def test_a_list_is_about_the_token_it_is_about(tmp_path: Path) -> None:
    """Prepared rows: list j is about token j + 1, in older ones about token j. Rows as vLLM gives
    them are about the last tokens."""
    ids = [[[10], [11], [12], [13]]]
    values = [[[0.0]] * 4]
    tokens = [[1, 2, 3, 4]]
    prepared = {
        "input_ids": tokens,
        "target_token_ids": ids,
        "target_logprobs": values,
        "target_mask": [[[1], [1], [1], [0]]],
    }
    legacy = prepared | {"target_mask": [[[0], [1], [1], [1]]]}
    raw = {"input_ids": tokens, "target_token_ids": ids, "logprobs": values}
    short = {"input_ids": tokens, "target_token_ids": [ids[0][:3]], "logprobs": [values[0][:3]]}
    for number, (columns, layout, expected) in enumerate(
        (
            (prepared, Axolotl(), [10, 11, 12]),
            (legacy, Axolotl(alignment="legacy"), [11, 12, 13]),
            (raw, Axolotl(), [11, 12, 13]),
            (short, Axolotl(), [10, 11, 12]),
        )
    ):
        path = write_rows(tmp_path / f"{number}.parquet", columns)
        [window] = import_lists([path], tmp_path / f"{number}", layout, RENORMALISED)
        assert window.targets.ids_TK[:, 0].tolist() == expected
        assert window.mask_T.all()


def test_the_wrong_alignment_is_noticed_by_labels_and_mask(tmp_path: Path) -> None:
    columns = listed(1) | {
        "target_logprobs": [[LOGPROBS] * 4],
        "labels": [[-100, -100, 3, 4]],
        "target_mask": [[[0] * 3, [1] * 3, [1] * 3, [0] * 3]],
    }
    path = write_rows(tmp_path / "rows.parquet", columns)
    [window] = import_lists([path], tmp_path / "store", Axolotl(), FULL)
    assert window.mask_T.tolist() == [False, True, True]
    with pytest.raises(CorpusError, match="row 0: expected a target_mask that is 0 exactly where"):
        import_lists([path], tmp_path / "other", Axolotl(alignment="legacy"), FULL)
    assert not (tmp_path / "other").exists()


def test_published_logits_come_without_a_tail(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data-shard-000.parquet", token_logits())
    store = import_lists([path], tmp_path / "store", TokenLogits(), LOGITS)
    assert verify(store.root).is_sound
    assert store.targets.temperatures == ()
    assert read_store(store.root)["ids"].tolist() == [[7, 8, 9]] * 3 + [[9, 8, 7]] * 3
    first = next(iter(store))
    assert first.targets.ids_TK.tolist() == [[7, 8, 9]] * 3
    assert first.targets.logits_TK.tolist() == [[11.75, 11.0, 10.5]] * 3
    assert (first.source, first.document_ids) == ("data-shard-000.parquet", ("0",))
    with pytest.raises(TemperatureError, match="tail='renormalize' takes the kept entries"):
        first.targets.logprobs_TK()
    identity = store.manifest.identity
    assert identity["imported"] == {"layout": "token-logits", "values": "logits"}
    assert set(identity["teacher"]) == {"source_sha256"}
    assert store.manifest.teacher == "unknown"
    shown = run("info", store.root).output
    assert "unknown (nobody stated it)" in shown
    assert "none: what the vocabulary sums to is not stored" in shown
    refused = run("verify", store.root, "--rescore", "1", "--teacher", "nobody")
    assert "a store whose teacher is known" in refused.stderr


def test_what_is_stated_is_kept(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.parquet", listed())
    tokenizer = {"sha256": "e" * 64, "vocab_size": 256}
    stated = Stated(
        values="full", temperature=2.0, vocab_size=300, teacher="someone/model",
        tokenizer=tokenizer, license="cc-by-4.0",
    )  # fmt: skip
    store = import_lists([path], tmp_path / "store", Axolotl(), stated)
    identity = store.manifest.identity
    assert identity["teacher"] == {"name": "someone/model"}
    assert identity["tokenizer"] == tokenizer
    assert identity["corpus"]["files"][0]["sha256"]
    error = identity["imported"].pop("tail_mass_error")
    assert identity["imported"] == {
        "layout": "axolotl", "values": "full", "temperature": 2.0, "license": "cc-by-4.0",
    }  # fmt: skip
    assert 1e-5 < error < 2e-5
    targets = next(iter(store)).targets
    np.testing.assert_allclose(targets.logprobs_TK(2.0), [LOGPROBS] * 3, atol=1 / 32)
    np.testing.assert_allclose(np.exp(targets.tail_logmass_T(2.0)), 0.125, atol=1e-7)
    with pytest.raises(TemperatureError, match="one of the temperatures stored: 2"):
        targets.logprobs_TK(1.0)
    assert "cc-by-4.0" in run("info", store.root).output
    lossless = import_lists([path], tmp_path / "lossless", Axolotl(), stated, values="float32")
    np.testing.assert_allclose(
        next(iter(lossless)).targets.logprobs_TK(2.0), [LOGPROBS] * 3, atol=1e-6
    )


def test_the_fingerprint_covers_the_files_and_what_is_stated(tmp_path: Path) -> None:
    one = write_rows(tmp_path / "one.parquet", listed())
    other = write_rows(tmp_path / "other.parquet", listed(3))
    made = [
        import_lists([path], tmp_path / f"{number}", Axolotl(), stated)
        for number, (path, stated) in enumerate(
            (
                (one, FULL),
                (other, FULL),
                (one, Stated(values="full", temperature=2.0, vocab_size=300)),
                (one, Stated(values="full", temperature=1.0, vocab_size=300, teacher="x")),
            )
        )
    ]
    assert len({store.fingerprint for store in made}) == 4
    # Two unknown teachers, or tokenizers, are not the same.
    with pytest.raises(IdentityError, match=r"field teacher.source_sha256"):
        merge_stores([made[0].root, made[1].root], tmp_path / "merged")
    with pytest.raises(IdentityError, match="tokenizer"):
        Mixture([made[0].root, made[1].root])
    with pytest.raises(IdentityError, match="field corpus"):
        import_lists([other], made[0].root, Axolotl(), FULL)


def test_order_is_only_a_convention(tmp_path: Path) -> None:
    """vLLM puts the true token first: entries are sorted, whatever their order."""
    columns = listed(
        1,
        logprobs=[[[LOGPROBS[2], LOGPROBS[0], LOGPROBS[1]]] * 4],
        target_token_ids=[[[9, 7, 8]] * 4],
    )
    path = write_rows(tmp_path / "rows.parquet", columns)
    [window] = import_lists([path], tmp_path / "store", Axolotl(), FULL)
    assert window.targets.ids_TK.tolist() == [[7, 8, 9]] * 3


def test_padding_segments_gaps_and_repeats(tmp_path: Path) -> None:
    """Padding goes, documents stay apart, targets without entries are none, rows come once."""
    lists = [[11.0, 10.0]] * 6
    ids = [[1, 2]] * 6
    columns = {
        "input_ids": [[1, 2, 3, 4, 5, 0], [0, 1, 2, 3, 4, 5], [9, 8, 7, 0, 0, 0],
                      [1, 0, 0, 0, 0, 0]],
        "attention_mask": [[1, 1, 2, 2, 2, 0], [0, 1, 1, 2, 2, 2], [1, 1, 1, 0, 0, 0],
                           [1, 0, 0, 0, 0, 0]],
        "token_ids": [ids, ids, [ids[0], [], *ids[2:]], ids],
        "top_values": [lists, lists, [lists[0], None, *lists[2:]], lists],
    }  # fmt: skip
    columns["token_ids"][2][1] = None  # type: ignore[index]
    path = write_rows(tmp_path / "rows.parquet", columns)
    store = import_lists([path], tmp_path / "store", TokenLogits(), LOGITS)
    assert verify(store.root).is_sound
    first, other = store
    assert first.input_ids_L.tolist() == [1, 2, 3, 4, 5]
    assert first.segment_lengths_S.tolist() == [2, 3]
    assert first.document_ids == ("0.0", "0.1")
    assert first.mask_T.tolist() == [True, False, True, True]
    assert other.positions_T is not None
    assert other.positions_T.tolist() == [0]
    corpus = store.manifest.corpus
    assert (corpus["repeated_windows"], corpus["untargeted_windows"]) == (1, 1)


def test_padding_on_the_left_moves_no_target(tmp_path: Path) -> None:
    columns = {
        "input_ids": [[0, 0, 5, 6, 7]],
        "attention_mask": [[0, 0, 1, 1, 1]],
        "token_ids": [[[1], [2], [3], [4], [9]]],
        "top_values": [[[1.0]] * 5],
    }
    path = write_rows(tmp_path / "rows.parquet", columns)
    [window] = import_lists([path], tmp_path / "store", TokenLogits(), LOGITS)
    assert window.input_ids_L.tolist() == [5, 6, 7]
    assert window.targets.ids_TK[:, 0].tolist() == [3, 4]


def test_distillkits_own_captures_are_read(tmp_path: Path) -> None:
    """A list less than tokens, bfloat16, differences; a polynomial's ranks are left out."""
    logprobs = torch.tensor(LOGPROBS)
    deltas = torch.cat([logprobs[:1], logprobs.diff()]).bfloat16()
    values = [*deltas.view(torch.uint8).tolist(), *[77] * 12]
    bits = "".join(f"{token:09b}" for token in (7, 8, 299, 5))
    packed = [int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8)]
    columns = {
        "input_ids": pa.array([[1, 2, 3, 4]], pa.list_(pa.uint64())),
        "compressed_logprobs": pa.array([[values] * 3], pa.list_(pa.list_(pa.uint8()))),
        "bytepacked_indices": pa.array([[packed] * 3], pa.list_(pa.list_(pa.uint8()))),
    }
    path = write_rows(tmp_path / "data_0.parquet", columns)
    config = tmp_path / "compression_config.yaml"
    config.write_text(
        "d: 300\nk: 4\nexact_k: 3\nexact_dtype: bfloat16\npolynomial_terms: [0, 1, sqrt]\n"
        "term_dtype: float32\nresidual_bins: []\ndelta_encoding: true\n"
    )
    made = run(
        "import", path, "--from", "distillkit", "--output", tmp_path / "store", "--values-are",
        "full", "--temperature", "1", "--vocab-size", "300", "--values", "float32",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    [window] = Store.open(tmp_path / "store")
    assert window.targets.ids_TK.tolist() == [[7, 8, 299]] * 3
    np.testing.assert_allclose(window.targets.logprobs_TK(), [LOGPROBS] * 3, rtol=2**-7)


@pytest.mark.slow
def test_arrow_files_of_datasets_are_read(tmp_path: Path) -> None:
    """As `axolotl preprocess` and `save_to_disk` leave them."""
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(listed(100)).save_to_disk(tmp_path / "saved")
    store = import_lists([tmp_path / "saved"], tmp_path / "store", Axolotl(), FULL)
    assert len(store) == 100
    path = write_rows(tmp_path / "rows.parquet", listed(100))
    same = import_lists([path], tmp_path / "same", Axolotl(), FULL)
    assert [one.window_id for one in same] == [one.window_id for one in store]


def test_a_student_learns_from_entries_alone(tmp_path: Path) -> None:
    """Without a tail only 'renormalize' is taken: at any temperature, 0 where all are equal."""
    path = write_rows(tmp_path / "rows.parquet", token_logits())
    store = import_lists([path], tmp_path / "store", TokenLogits(), LOGITS)
    dataset = SoftTargetDataset(store, batch_size=2)
    batch = next(iter(dataset))
    logits = torch.full((2, 4, 300), -1e9)
    for row, window in enumerate(store):
        targets = window.targets
        ids_TK = torch.from_numpy(targets.ids_TK).long()
        logits[row, :3].scatter_(1, ids_TK, torch.from_numpy(targets.logits_TK))
    for temperature in (1.0, 3.0):
        loss = distillation_loss(logits, batch, temperature, tail="renormalize")
        assert abs(loss.item()) < 1e-5
        shifted = distillation_loss(logits.roll(1, 2), batch, temperature, tail="renormalize")
        assert shifted.item() > 1
        with pytest.raises(TemperatureError, match="there are none"):
            distillation_loss(logits, batch, temperature)
    targets = batch.renormalized_targets(3.0)
    assert targets.logprobs.exp().sum(-1)[targets.mask] == pytest.approx(torch.ones(6))
    assert (targets.tail_logmass[targets.mask] == -torch.inf).all()
    assert (targets.tail_logmass[:, -1] == 0).all()
    samples = next(iter(make_store(tmp_path / "samples", "sampled")))
    with pytest.raises(InputError, match="targets with a head"):
        collate([samples]).renormalized_targets()


def test_a_tokenizer_that_is_unknown_is_not_the_students(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.parquet", listed())
    store = import_lists([path], tmp_path / "store", Axolotl(), FULL)
    with pytest.raises(IdentityError, match="SHA-256 unknown"):
        SoftTargetDataset(store, tokenizer=byte_tokenizer())


@pytest.mark.slow
def test_an_interrupted_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softtargets.layouts.listed_import.UNIT_TOKENS", 40)
    path = write_rows(tmp_path / "rows.parquet", listed(100))
    whole = import_lists([path], tmp_path / "whole", Axolotl(), FULL)
    assert len(whole.manifest.shards) == 10
    real = StoreWriter.write_unit
    written: list[int] = []
    is_first = True

    def write_unit(self: StoreWriter, unit: int, *rest: Any) -> Any:
        if unit == 3 and is_first:
            raise KeyboardInterrupt
        written.append(unit)
        return real(self, unit, *rest)

    monkeypatch.setattr(StoreWriter, "write_unit", write_unit)
    with pytest.raises(KeyboardInterrupt):
        import_lists([path], tmp_path / "store", Axolotl(), FULL)
    is_first = False
    store = import_lists([path], tmp_path / "store", Axolotl(), FULL)
    assert written == list(range(10))
    assert shard_bytes(store.root) == shard_bytes(whole.root)
    assert store.manifest.corpus == whole.manifest.corpus
    again = shard_bytes(import_lists([path], tmp_path / "store", Axolotl(), FULL).root)
    assert again == shard_bytes(whole.root)


@pytest.mark.slow
def test_the_import_command(store: Store, tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    run("export", store.root, tmp_path / "a", "--to", "axolotl", "--log-probabilities", "full")
    stating = ["--values-are", "full", "--temperature", "1", "--vocab-size", "300"]
    made = run(
        "import", tmp_path / "a", "--from", "axolotl", "--output", tmp_path / "back", *stating,
        "--tokenizer", tmp_path / "tokenizer", "--teacher", "fake", "--license", "mit",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert f"{len(store)} windows" in made.output
    back = Store.open(tmp_path / "back")
    assert back.vocabulary is not None
    assert len(back.vocabulary) == 256
    SoftTargetDataset(back, tokenizer=byte_tokenizer())
    assert json.loads(run("info", back.root, "--json").output)["teacher"] == "fake"
    for arguments, message in (
        (["--from", "axolotl", "--values-are", "full"], "needs --vocab-size"),
        (["--from", "axolotl", "--vocab-size", "3"], "needs --values-are"),
        (["--from", "plain", *stating], "found --values-are, --temperature, --vocab-size"),
        (["--from", "token-logits", "--alignment", "legacy", *stating], "found --alignment"),
        (["--from", "axolotl", "--compression-config", "x", *stating], "found --compression"),
    ):
        refused = run("import", tmp_path / "a", "--output", tmp_path / "no", *arguments)
        assert refused.exit_code != 0
        assert message in refused.stderr
    plain = run("export", store.root, tmp_path / "p", "--to", "plain")
    assert plain.exit_code == 0
    made = run("import", tmp_path / "p", "--from", "plain", "--output", tmp_path / "same")
    assert f"{store.num_positions} targets" in made.output
    assert "import of" in run("info", tmp_path / "same").output


def test_an_imported_window_is_what_a_store_of_it_would_be(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    """Half precision, in another order of the files, and a masked target that has entries."""
    windows = [make_window(rng, KINDS["topk-without-tail"], trained=0.5)[0] for _ in range(3)]
    store = write_store(tmp_path / "store", KINDS["topk-without-tail"], [windows])
    columns: dict[str, list[Any]] = {name: [] for name in ("input_ids", "labels", "token_ids")}
    values = []
    for window in windows:
        targets = window.targets
        labels = [-100, *np.where(window.mask_T, window.input_ids_L[1:], -100).tolist()]
        columns["input_ids"].append(window.input_ids_L.tolist())
        columns["labels"].append(labels)
        columns["token_ids"].append(targets.ids_TK.tolist())
        values.append(targets.logits_TK.astype(np.float16).tolist())
    kind = pa.list_(pa.list_(pa.float16()))
    halves = pa.array([[[np.float16(one) for one in own] for own in row] for row in values], kind)
    path = write_rows(tmp_path / "rows.parquet", columns | {"top_values": halves})
    back = import_lists([path], tmp_path / "back", TokenLogits(), LOGITS)
    for one, other in zip(store, back, strict=True):
        assert np.array_equal(one.input_ids_L, other.input_ids_L)
        assert np.array_equal(one.mask_T, other.mask_T)
        assert np.array_equal(one.targets.ids_TK, other.targets.ids_TK)
        np.testing.assert_allclose(one.targets.logits_TK, other.targets.logits_TK, atol=1 / 16)
