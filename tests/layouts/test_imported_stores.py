"""Stores made of other tools' lists: what identifies them, and how students take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from softtargets import SoftTargetDataset, collate, distillation_loss
from softtargets.errors import IdentityError, InputError, TemperatureError
from softtargets.layouts.axolotl import Axolotl
from softtargets.layouts.token_logits import TokenLogits
from softtargets.store import Stated, import_lists, merge_stores
from softtargets.stream import Mixture
from tests.commands import run
from tests.fakes import byte_tokenizer
from tests.golden import make_store
from tests.layouts.readers import FULL, LOGITS, LOGPROBS, listed, token_logits, write_rows


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
