"""What else runs on Ray: generating a corpus, and comparing a store with its teacher."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from softtargets.capture import build, rescore
from softtargets.engines import RayActors
from softtargets.errors import StoreError
from softtargets.generation import generate
from softtargets.places import place_to_write
from softtargets.store import Store
from tests.capture.test_workers import Dying
from tests.fakes import FakeTeacher, build_config, build_store, write_corpus
from tests.generation.test_generate import pair_generation
from tests.generation.test_generate_workers import mortal
from tests.tasks.translators import save_pairs, save_translator, translator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_translator(tmp_path_factory.mktemp("Marian"), "Marian")


def command(*arguments: object) -> str:
    """Run a command in a process of its own, and return what it printed."""
    line = [sys.executable, "-m", "softtargets", *(str(one) for one in arguments)]
    done = subprocess.run(line, text=True, capture_output=True, check=False)
    assert done.returncode == 0, " ".join((done.stdout + done.stderr).split())
    return done.stdout


def build_tiny(directory: Path, teacher: Path) -> Path:
    store = directory / "tiny-store"
    command(
        "build", "--teacher", teacher, "--input", write_corpus(directory / "corpus.jsonl"),
        "--output", store, "--top-k", "8", "--sequence-length", "16", "--dtype", "float32",
    )  # fmt: skip
    return store


@pytest.mark.parametrize("num_deaths", [0, 2])
def test_actors_write_the_bytes_of_one_process(
    cluster: Any, tmp_path: Path, model: Path, num_deaths: int
) -> None:
    whole = pair_generation(tmp_path, output=tmp_path / "whole.jsonl", unit_records=1)
    result = generate(whole, translator(model))
    config = pair_generation(tmp_path, unit_records=1)
    again = generate(config, mortal(model, num_deaths), engine=RayActors(2))
    assert config.output.read_bytes() == whole.output.read_bytes()
    assert again.counts == result.counts
    assert Path(f"{model}.deaths").read_text() == "0"
    assert not Path(f"{config.output}.work").exists()


def test_a_generation_whose_unit_kills_its_actors_goes_on_later(
    cluster: Any, tmp_path: Path, model: Path
) -> None:
    config = pair_generation(tmp_path, unit_records=3, batch_tokens=1)
    with pytest.raises(StoreError, match=r"unit \d, which failed 3 times: "):
        generate(config, mortal(model, 100), engine=RayActors(1))
    assert not config.output.exists()
    whole = pair_generation(
        tmp_path, output=tmp_path / "whole.jsonl", unit_records=3, batch_tokens=1
    )
    generate(whole, translator(model))
    generate(config, translator(model), engine=RayActors(1))
    assert config.output.read_bytes() == whole.output.read_bytes()


def test_generate_has_the_options(cluster: Any, tmp_path: Path, model: Path) -> None:
    corpus = save_pairs(tmp_path / "pairs.jsonl")
    common = (
        "generate", "--teacher", model, "--input", corpus, "--text-field", "en", "--target-field",
        "de", "--max-new-tokens", "9", "--num-beams", "2", "--unit-records", "2", "--dtype",
        "float32", "--output",
    )  # fmt: skip
    on_ray = ("--engine", "ray", "--ray-address", cluster.address, "--workers", 2)
    said = command(*common, tmp_path / "ray.jsonl", *on_ray)
    assert "5 prompts, 5 answers" in said
    command(*common, tmp_path / "here.jsonl")
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "here.jsonl").read_bytes()


@pytest.mark.parametrize("num_deaths", [0, 2])
def test_a_comparison_with_the_teacher_is_the_same(
    cluster: Any, tmp_path: Path, store: Store, num_deaths: int
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    here = rescore(store, FakeTeacher(), len(store))
    there = rescore(store, Dying(marks, num_deaths), len(store), engine=RayActors(2))
    assert there == here
    assert len(list(marks.iterdir())) >= num_deaths


def test_a_store_behind_a_url_is_compared(cluster: Any, tmp_path: Path, object_url: str) -> None:
    """Each actor reads its windows itself."""
    there = build(build_config(tmp_path), FakeTeacher(), place=place_to_write(object_url)).store
    found = rescore(there, FakeTeacher(), 20, engine=RayActors(2))
    assert found == rescore(build_store(tmp_path), FakeTeacher(), 20)


def test_verify_has_the_options(cluster: Any, tmp_path: Path, tiny_teacher: Path) -> None:
    common = (
        "verify",
        build_tiny(tmp_path, tiny_teacher),
        "--rescore",
        20,
        "--teacher",
        tiny_teacher,
        "--json",
    )
    on_ray = ("--engine", "ray", "--ray-address", cluster.address, "--workers", 2)
    there, here = (json.loads(command(*common, *more)) for more in (on_ray, ()))
    assert there["rescored"]["num_windows"] == 20
    assert there["rescored"] == here["rescored"]


@pytest.mark.parametrize("name", ["generate", "verify"])
def test_the_address_of_the_cluster_is_taken(
    tmp_path: Path, model: Path, tiny_teacher: Path, name: str
) -> None:
    options: dict[str, tuple[object, ...]] = {
        "generate": (
            "--teacher", model, "--input", save_pairs(tmp_path / "pairs.jsonl"), "--text-field",
            "en", "--target-field", "de", "--max-new-tokens", "9", "--output",
            tmp_path / "own.jsonl",
        ),
        "verify": (build_tiny(tmp_path, tiny_teacher), "--rescore", 20, "--teacher", tiny_teacher),
    }  # fmt: skip
    with pytest.raises(AssertionError, match="the address of a Ray cluster; found nowhere: "):
        command(name, *options[name], "--engine", "ray", "--ray-address", "nowhere")
