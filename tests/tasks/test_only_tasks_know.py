"""Nothing but tasks and targets knows which family a store is of, nor shifts labels."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import softtargets

ROOT = Path(softtargets.__file__).parent
MAY_KNOW = {"tasks", "targets"}
LEFT = {
    "capture/servers/served.py": {"a shift"},
    "capture/teachers/causal.py": {"causal"},
    "capture/vllm_engine/engine_in_process.py": {"a shift"},
    "capture/vllm_engine/vllm_teacher.py": {"a shift"},
    "demo/smollm.py": {"causal"},
    "fidelity/students.py": {"causal"},
    "layers/recorder.py": {"causal"},
    "layouts/axolotl.py": {"a shift"},
    "layouts/distillkit.py": {"a shift"},
    "layouts/listed_rows.py": {"a shift"},
    "stream/batch.py": {"causal"},
    "task_registry.py": {"causal"},
}
"""What other files still tell. It may only shrink.

Layouts of other tools are of causal models, and shift as those tools do. The teacher that
transformers loads is a causal one, so are the students of demo and fidelity. Servers and vLLM tell
what they expect next. `Batch.causal_mask` is a public name. An attention of transformers, of any
family, has a flag of this name. The registry names the task that a build has by default.
"""


def tales(tree: ast.AST) -> Iterator[str]:
    """Yield what of a family a file knows."""
    for node in ast.walk(tree):
        for name in _names(node):
            if "next_token" in name:
                yield "next_token"
            if "causal" in name:
                yield "causal"
        if isinstance(node, ast.Compare) and "predicts" in _code(node):
            yield "a comparison"
        if _shifts(node):
            yield "a shift"


def _names(node: ast.AST) -> Iterator[str]:
    """Yield the names of a node, and short texts, in small letters; docstrings are for people."""
    if isinstance(node, ast.Name):
        yield node.id.lower()
    elif isinstance(node, ast.Attribute):
        yield node.attr.lower()
    elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.alias):
        yield node.name.lower()
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
        yield node.value.lower()


def _shifts(node: ast.AST) -> bool:
    """Return whether labels, ids or positions are moved by one."""
    if isinstance(node, ast.Subscript) and _is_of_targets(node.value):
        slices = [one for one in ast.walk(node.slice) if isinstance(one, ast.Slice)]
        return any(_is_one(one.lower) or _is_one(one.upper) for one in slices)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        return "positions_T" in _code(node.left) and _is_one(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        moved = any(_is_one(one) for one in node.args)
        return node.func.attr == "roll" and _is_of_targets(node.func.value) and moved
    return False


def _is_of_targets(node: ast.AST) -> bool:
    return any(one in _code(node) for one in ("labels", "input_ids", "ids_BL", "is_target"))


def _is_one(node: ast.AST | None) -> bool:
    return node is not None and _code(node) in ("1", "-1")


def _code(node: ast.AST) -> str:
    return ast.unparse(node)


def test_no_other_file_knows_a_family() -> None:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.split("/")[0] not in MAY_KNOW and (told := set(tales(ast.parse(path.read_text())))):
            found[name] = told
    assert found == LEFT


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = schema.predicts == 'window'", "a comparison"),
        ("x = {'next_token': 1}", "next_token"),
        ("from softtargets.targets import NEXT_TOKEN", "next_token"),
        ("model = AutoModelForCausalLM()", "causal"),
        ("x = batch['labels'].roll(-1, dims=1)", "a shift"),
        ("x = labels_BL[:, 1:]", "a shift"),
        ("x = window.input_ids_L[:-1]", "a shift"),
        ("x = ids_L[positions_T + 1]", "a shift"),
    ],
)
def test_what_tells_is_seen(code: str, expected: str) -> None:
    assert set(tales(ast.parse(code))) == {expected}


def test_a_docstring_tells_nothing() -> None:
    assert not set(tales(ast.parse('"""Of the next_token, causal."""\nx = labels_BL[:, shift:]')))
