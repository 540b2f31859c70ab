from __future__ import annotations

import pytest

from softtargets.errors import InputError
from softtargets.runs.student_spec import StudentSpec


@pytest.mark.parametrize(
    ("text", "num_layers", "expected"),
    [
        # DistilBERT's: Sanh et al. 2019, scripts/extract_distilbert.py.
        ("teacher[depth=6]", 12, (0, 2, 4, 7, 9, 11)),
        ("teacher[depth=3]", 6, (0, 2, 5)),
        ("teacher[depth=1]", 6, (0,)),
        ("teacher[depth=4]", 4, (0, 1, 2, 3)),
        ("teacher[layers=0,2,4]", 5, (0, 2, 4)),
        ("teacher[layers=1, 3]", 4, (1, 3)),
    ],
)
def test_layers_are_chosen_by_name_or_evenly(
    text: str, num_layers: int, expected: tuple[int, ...]
) -> None:
    spec = StudentSpec.parse(text)
    assert spec.kind == "teacher"
    assert spec.chosen_layers(num_layers) == expected


@pytest.mark.parametrize("num_layers", range(1, 25))
def test_every_depth_has_both_ends_and_no_layer_twice(num_layers: int) -> None:
    for depth in range(2, num_layers + 1):
        layers = StudentSpec.parse(f"teacher[depth={depth}]").chosen_layers(num_layers)
        assert (layers[0], layers[-1], len(set(layers))) == (0, num_layers - 1, depth)


@pytest.mark.parametrize(
    "text", ["teacher[depth=0]", "teacher[depth=5]", "teacher[layers=0,4]", "teacher[layers=2,1]"]
)
def test_layers_that_the_teacher_lacks_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--student: expected rising numbers of the teacher's 4"):
        StudentSpec.parse(text).chosen_layers(4)


@pytest.mark.parametrize(
    "text",
    ["teacher[]", "teacher[depth=1,2]", "teacher[layers=]", "teacher[layers=a]", "teacher[depth=2"],
)
def test_what_begins_like_layers_and_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"expected teacher\[layers=0,2,4\] or teacher\[depth=3\]"):
        StudentSpec.parse(text)


def test_models_and_configurations_are_told_apart() -> None:
    kinds = {text: StudentSpec.parse(text).kind for text in ("org/name", "a/config.json", "./dir")}
    assert kinds == {"org/name": "model", "a/config.json": "config", "./dir": "model"}
