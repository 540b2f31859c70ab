"""Death at random moments: a build that is run again gives the same bytes."""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from softtargets.capture import (
    BuildConfig,
    Corpus,
    Progress,
    TeacherConfig,
    TransformersTeacher,
    Windowing,
    build,
)
from softtargets.store import verify
from tests.fakes import TEXTS, build_config, shard_bytes, write_corpus
from tests.processes import CONTEXT

NUM_KILLS = 20


def run_build(
    config: BuildConfig, teacher: Path, on_progress: Callable[[Progress], None] = lambda _: None
) -> None:
    loaded = TransformersTeacher(TeacherConfig(name=str(teacher), dtype="float32"))
    build(config, loaded, on_progress)


def run_killed_build(config: BuildConfig, teacher: Path, num_units: int, seconds: float) -> None:
    """Build until some units are done, and for some seconds of the processor after that.

    The kernel then ends the process at once, as SIGKILL does: SIGPROF has no handler. It counts the
    processor's seconds, of which a busy machine gives no more than an idle one.
    """

    def set_timer(_: Progress) -> None:
        if num_done(config) >= num_units and signal.getitimer(signal.ITIMER_PROF)[0] == 0:
            signal.setitimer(signal.ITIMER_PROF, seconds)

    run_build(config, teacher, set_timer)


@pytest.mark.slow
def test_death_at_random_moments_changes_no_byte(tmp_path: Path, tiny_teacher: Path) -> None:
    texts = [f"{number} {text}" for number in range(32) for text in TEXTS]
    corpus = Corpus(paths=(write_corpus(tmp_path / "corpus.jsonl", texts),))

    def config_for(name: str) -> BuildConfig:
        return build_config(
            tmp_path / name,
            corpus=corpus,
            windowing=Windowing(sequence_length=64),
            unit_tokens=1000,
            batch_tokens=512,
        )

    whole = config_for("whole")
    started = time.process_time()
    run_build(whole, tiny_teacher)
    expected = shard_bytes(whole.output)
    assert len(expected) > 10
    unit_seconds = (time.process_time() - started) / len(expected)

    rng = random.Random(0)
    units_done = []
    for kill in range(NUM_KILLS):
        config = config_for(f"killed-{kill}")
        # Loading takes most of the time: a moment is so many units, and a random time after them.
        num_units, seconds = rng.randrange(len(expected)), rng.uniform(1e-6, 2 * unit_seconds)
        arguments = config, tiny_teacher, num_units, seconds
        process = CONTEXT.Process(target=run_killed_build, args=arguments)
        process.start()
        process.join()
        assert process.exitcode in (-signal.SIGPROF, 0)
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
