"""A teacher that is cut over two processes builds what one process does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softtargets.capture import TeacherConfig, build, open_teacher
from softtargets.errors import InputError
from softtargets.store import Store, verify
from softtargets.tasks.masked_lm import MaskedLM
from tests.cli.test_ranks import run_two
from tests.fakes import build_config

OPTIONS = (
    *("--dtype", "float32", "--device", "cpu", "--temperature", "1", "--temperature", "2"),
    *("--sequence-length", 16, "--select", "topk", "--top-k", 8, "--values", "float32"),
    *("--unit-tokens", 100, "--batch-tokens", 64),
)


@pytest.mark.slow
def test_two_processes_build_what_one_does(tiny_teacher: Path, tmp_path: Path) -> None:
    config = build_config(tmp_path, values="float32")
    teacher = TeacherConfig(name=str(tiny_teacher), dtype="float32", device="cpu")
    one = build(config, open_teacher(teacher)).store
    own = ("--input", tmp_path / "corpus.jsonl", "--output", tmp_path / "two")
    code, said = run_two(tmp_path / "log", "build", "--teacher", tiny_teacher, *own, *OPTIONS)
    assert code == 0, said
    assert said.count("fingerprint") == 1
    two = Store.open(tmp_path / "two")
    assert verify(two.root).is_sound
    assert one.fingerprint == two.fingerprint
    apart = 0.0
    for window, other in zip(one, two, strict=True):
        assert window.window_id == other.window_id
        found, wanted = other.targets, window.targets
        np.testing.assert_array_equal(found.ids_TK, wanted.ids_TK)
        np.testing.assert_allclose(found.logits_TK, wanted.logits_TK, atol=1e-4)
        np.testing.assert_allclose(found.tail_mass_TG, wanted.tail_mass_TG, atol=1e-4)
        apart = max(apart, float(np.abs(found.logits_TK - wanted.logits_TK).max()))
    assert apart > 0, "two processes add up in another order: these are not two"


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        (
            {},
            {},
            "--tensor-parallel 2: expected as many processes .* found no torchrun",
        ),
        ({"WORLD_SIZE": "4"}, {}, "--tensor-parallel 2: expected as many .* found 4"),
        ({"WORLD_SIZE": "2"}, {"compile": True}, "--compile: expected nothing of it beside"),
        ({"WORLD_SIZE": "2"}, {"device_map": "auto"}, "--device-map: expected nothing of it"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tiny_teacher: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    options: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        open_teacher(TeacherConfig(name=str(tiny_teacher), tensor_parallel=2, **options))


def test_other_tasks_and_engines_are_refused(tiny_teacher: Path) -> None:
    config = TeacherConfig(name=str(tiny_teacher), tensor_parallel=2, device="cpu")
    with pytest.raises(InputError, match="--tensor-parallel: expected a causal language model"):
        MaskedLM().capture().teacher(config)
    with pytest.raises(InputError, match="--tensor-parallel: expected an option that gguf: has"):
        open_teacher(TeacherConfig(name="gguf:none", tensor_parallel=2))
