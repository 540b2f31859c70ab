"""Teachers that compile their decoder: the same numbers, or a typed error."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from softtargets.capture import TeacherConfig, TransformersTeacher
from softtargets.errors import TeacherError
from tests.capture.conftest import Save
from tests.capture.families import NOISE, assert_near, load, random_ids, save_model


def test_only_compiling_changes_the_description(save: Save) -> None:
    config = TeacherConfig(name=str(save("Llama")))
    described = TransformersTeacher(config).describe()
    compiling = TransformersTeacher(TeacherConfig(name=config.name, compile=True))
    assert "compile" not in described
    assert compiling.describe() == described | {"compile": True}
    assert pickle.loads(pickle.dumps(compiling)).config.compile
    assert compiling.for_worker(1).config.compile


def compile_with(backend: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))


def load_compiled(directory: Path, family: str) -> tuple[TransformersTeacher, TransformersTeacher]:
    """Write a model of one layer, and return it compiled and as it is."""
    save_model(directory, family, num_hidden_layers=1)
    plain = load(directory, family)
    compiled = TransformersTeacher(replace(plain.config, compile=True))
    compiled.load()
    return compiled, plain


def assert_alike(one: TransformersTeacher, other: TransformersTeacher) -> None:
    for length in (2, 5, 23):
        hidden_BLD = one.hidden_states(random_ids(length))
        other_BLD = other.hidden_states(random_ids(length))
        assert_near(hidden_BLD, other_BLD, NOISE["float32"])
        logits_NV = one.logits(hidden_BLD.flatten(0, 1))
        assert_near(logits_NV, other.logits(other_BLD.flatten(0, 1)), NOISE["float32"])


@pytest.mark.slow
def test_hidden_states_come_from_the_compiled_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is captured as for users, but run as it is: making kernels takes half a minute."""
    num_runs = 0

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            nonlocal num_runs
            num_runs += 1
            return graph.forward(*args)

        return run

    compile_with(backend, monkeypatch)
    compiled, plain = load_compiled(tmp_path, "Granite")
    assert num_runs == 1
    assert_alike(compiled, plain)
    assert num_runs == 4


@pytest.mark.slow
def test_a_decoder_that_does_not_compile_is_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(*_: Any) -> None:
        raise RuntimeError("no C++ compiler")

    compile_with(backend, monkeypatch)
    with pytest.raises(TeacherError, match=r"no C\+\+ compiler.*Omit --compile"):
        load_compiled(tmp_path, "OPT")


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler"
)
# Of torch itself, when it first compiles.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.* is deprecated:DeprecationWarning")
def test_compiled_kernels_give_what_the_decoder_gives(tmp_path: Path) -> None:
    assert_alike(*load_compiled(tmp_path, "OPT"))
