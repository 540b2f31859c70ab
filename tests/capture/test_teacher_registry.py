"""A `--teacher` spec leads to one teacher, which refuses the options it has no use for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from softtargets.capture import TeacherConfig, TransformersTeacher, open_teacher, register_teacher
from softtargets.capture.abilities import ALL_LOGITS, LISTS, Abilities, check_abilities, nearest
from softtargets.capture.keep.listed import check_listed
from softtargets.capture.keep.selection import Hybrid, Keep, TopK
from softtargets.capture.teacher_registry import REGISTERED, check_used, scheme_of, task_of_teacher
from softtargets.errors import InputError, TeacherError
from softtargets.tasks.causal_lm import CausalLM
from softtargets.tasks.masked_lm import MaskedLM
from tests.fakes import FakeTeacher

HYBRID = Keep(selection=Hybrid(k=40), temperatures=(1.0, 2.0))


@pytest.fixture(autouse=True)
def _own_engine() -> Iterator[None]:
    register_teacher("fake", make_fake)
    yield
    del REGISTERED["fake"]


def make_fake(config: TeacherConfig) -> FakeTeacher:
    check_used(config, frozenset({"dtype"}))
    return FakeTeacher(seed=int(config.name.removeprefix("fake:")))


def test_a_scheme_leads_to_its_teacher() -> None:
    teacher = CausalLM().capture().teacher(TeacherConfig(name="fake:3", dtype="float32"))
    assert isinstance(teacher, FakeTeacher)
    assert teacher.seed == 3


def test_anything_else_is_a_model_of_transformers(tiny_teacher: Path) -> None:
    teacher = open_teacher(TeacherConfig(name=str(tiny_teacher), device="cpu"))
    assert isinstance(teacher, TransformersTeacher)
    assert scheme_of(str(tiny_teacher)) is scheme_of("org/name") is scheme_of("fake") is None
    with pytest.raises(TeacherError, match="expected a directory, or an id"):
        open_teacher(TeacherConfig(name="other://3"))


def test_an_option_without_a_use_is_refused() -> None:
    with pytest.raises(InputError, match="--attention: expected an option that fake: has a use"):
        open_teacher(TeacherConfig(name="fake:3", attention="eager"))


def test_an_engine_runs_causal_models_alone() -> None:
    config = TeacherConfig(name="fake:3")
    assert task_of_teacher(config).name == task_of_teacher(config, "causal-lm").name == "causal-lm"
    with pytest.raises(InputError, match="fake: has no other; found --task masked-lm"):
        task_of_teacher(config, "masked-lm")
    with pytest.raises(TeacherError, match="fake:3"):
        MaskedLM().capture().teacher(config)


def test_the_nearest_command_is_named() -> None:
    lists = Abilities(largest_k=20)
    assert nearest(HYBRID, lists) == Keep(selection=TopK(k=20), temperatures=(1.0,))
    with pytest.raises(InputError, match=r"Pass --select topk --top-k 20 and --temperature 1\. A"):
        check_abilities(HYBRID, lists, "a server")
    drawless = Abilities(full_logits=True, any_temperature=True)
    with pytest.raises(InputError, match=r"found hybrid. Pass --select topk --top-k 40\. A"):
        check_abilities(HYBRID, drawless, "a server")
    check_abilities(HYBRID, ALL_LOGITS, "a model")
    assert nearest(HYBRID, ALL_LOGITS) == HYBRID


def test_a_list_is_what_every_teacher_can_tell() -> None:
    check_listed(Keep(selection=TopK(k=400), temperatures=(1.0,)))
    check_abilities(Keep(selection=TopK(k=400), temperatures=(1.0,)), LISTS, "a list")
    with pytest.raises(InputError, match=r"--select: expected topk .* lists its likeliest ids"):
        check_listed(HYBRID)
