"""SIGKILL at random moments: a build that is run again gives the same bytes."""

from __future__ import annotations

import multiprocessing
import random
import re
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from softtargets.capture import (
    BuildConfig,
    Corpus,
    TeacherConfig,
    TransformersTeacher,
    Windowing,
    build,
)
from softtargets.store import verify
from tests.fakes import TEXTS, build_config, shard_bytes, write_corpus

NUM_KILLS = 20


def run_build(config: BuildConfig, teacher: Path) -> None:
    build(config, TransformersTeacher(TeacherConfig(name=str(teacher), dtype="float32")))


@pytest.fixture
def forkserver() -> Iterator[ForkServerContext]:
    """Processes that start with the imports done, so that a kill falls into the build itself."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_crash", "transformers.models.llama.modeling_llama"])
    yield context


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_no_byte(
    tmp_path: Path, tiny_teacher: Path, forkserver: ForkServerContext
) -> None:
    texts = [f"{number} {text}" for number in range(150) for text in TEXTS]
    corpus = Corpus(paths=(write_corpus(tmp_path / "corpus.jsonl", texts),))

    def config_for(name: str) -> BuildConfig:
        return build_config(
            tmp_path / name,
            corpus=corpus,
            windowing=Windowing(sequence_length=64),
            unit_tokens=4000,
            batch_tokens=1024,
        )

    whole = config_for("whole")
    started = time.monotonic()
    run_build(whole, tiny_teacher)
    expected = shard_bytes(whole.output)
    assert len(expected) > 10
    unit_seconds = (time.monotonic() - started) / len(expected)

    rng = random.Random(0)
    units_done = []
    for kill in range(NUM_KILLS):
        config = config_for(f"killed-{kill}")
        process = forkserver.Process(target=run_build, args=(config, tiny_teacher))
        process.start()
        # Loading takes most of the time: a moment is so many units, and a random time after them.
        num_units = rng.randrange(len(expected))
        while num_done(config) < num_units and process.is_alive():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 2 * unit_seconds))
        process.kill()
        process.join()
        units_done.append(num_done(config))
        names = {re.sub(r"\.\w+\.tmp$", "", name) for name in shard_bytes(config.output)}
        assert names <= set(expected)
        run_build(config, tiny_teacher)
        assert shard_bytes(config.output) == expected, kill
        assert verify(config.output).is_sound
        assert not list(config.output.rglob("*.tmp"))
    # The moments were spread over the build, not all before its first unit.
    assert len(set(units_done)) > 5, units_done


def num_done(config: BuildConfig) -> int:
    """Return how many units are recorded; 0 too when the build is complete."""
    return len(list((config.output / "work" / "records").glob("*.json")))
