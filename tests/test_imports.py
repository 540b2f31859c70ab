"""Imports run like the data: train -> stream -> store <- capture, tasks above, cli above all."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path

import pytest

import softtargets
from softtargets import store, train

ROOT = Path(softtargets.__file__).parent
BELOW_ALL = {
    "errors",
    "hashes",
    "limits",
    "texts",
    "urls",
    "kinds",
    "targets",
    "task_registry",
    "tokenizer",
    "window",
    "schemas",
}
MAY_IMPORT = {
    "urls": set[str](),
    "texts": {"urls"},
    "errors": {"texts"},
    "hashes": set[str](),
    "limits": {"errors"},
    "targets": {"errors"},
    "kinds": {"targets"},
    "task_registry": {"errors", "targets"},
    "tokenizer": {"errors", "targets"},
    "window": {"errors", "targets"},
    "places": {"errors", "hashes", "urls"},
    "store": BELOW_ALL | {"places"},
    "layouts": BELOW_ALL | {"places", "store"},
    "report": BELOW_ALL | {"store"},
    "engines": BELOW_ALL | {"places", "store"},
    "layers": BELOW_ALL | {"store"},
    "capture": BELOW_ALL | {"places", "store", "engines", "layers"},
    "generation": BELOW_ALL | {"places", "store", "capture", "engines"},
    "sharing": BELOW_ALL | {"places", "store"},
    "stream": BELOW_ALL | {"places", "store"},
    "train": BELOW_ALL | {"store", "stream", "layers"},
    "tasks": BELOW_ALL | {"store", "capture", "stream", "train", "layers", "generation"},
    "fidelity": BELOW_ALL | {"places", "store", "capture", "stream", "train"},
    "runs": BELOW_ALL
    | {"places", "store", "capture", "stream", "train", "report", "sharing", "layers"},
    "demo": BELOW_ALL | {"places", "store", "runs"},
    "cli": BELOW_ALL
    | {"places", "store", "layouts", "capture", "engines", "stream", "train", "fidelity", "demo"}
    | {"sharing", "report", "runs", "generation"},
    "__init__": BELOW_ALL | {"store", "stream", "train"},
    "__main__": {"cli"},
}
LAZY = {
    "store/iterable_dataset.py": {"layouts"},
    "store/__init__.py": {"layouts"},
}
"""Files of a room below another that give names of it to whoever asks, and not before."""
ADAPTERS = {
    "train/accelerate_loader.py": {"accelerate"},
    "train/hf_objective.py": {"transformers"},
    "train/hf_place.py": {"transformers"},
    "train/hf_trainer.py": {"accelerate", "transformers"},
    "train/lightning_module.py": {"lightning"},
    "train/trl_trainer.py": {"datasets", "trl"},
}
"""Files that may import a trainer; nothing else imports them, but for types."""
MAY_NAME_ADAPTERS = {"train/__init__.py", *ADAPTERS}
HOMES = {
    "torch": {"layers", "capture", "stream", "train", "tasks", "fidelity", "demo", "runs"}
    | {"generation"},
    "sacrebleu": {"generation"},
    "transformers": {"layers", "capture", "tasks", "fidelity", "demo", "cli", "runs"},
    "peft": {"runs"},
    "ray": {"engines"},
    "huggingface_hub": {"capture", "sharing", "runs", "layers/layer_body"},
    "pyarrow": {"places", "store", "layouts", "capture"},
    "fsspec": {"places"},
    "tenacity": {"places", "capture"},
    "httpx": {"capture"},
    "yaml": {"sharing", "store", "layouts"},
    "jsonschema_rs": {"store"},
    "click": {"cli"},
    "datasets": {"capture", "store/iterable_dataset"},
    "rich": {"cli"},
    "jinja2": {"capture", "report"},
    "matplotlib": {"demo", "fidelity", "runs"},
    "accelerate": set[str](),
    "lightning": set[str](),
    "trl": set[str](),
}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield node.module or ""


def misplaced(path: Path) -> list[str]:
    own, file = room(path), str(path.relative_to(ROOT).with_suffix(""))
    wrong = []
    trainers = ADAPTERS.get(path.relative_to(ROOT).as_posix(), set())
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "softtargets":
            lazy = LAZY.get(path.relative_to(ROOT).as_posix(), set())
            if rest and rest[0] not in MAY_IMPORT[own] | {own} | lazy:
                wrong.append(name)
            adapter = f"{'/'.join(rest)}.py"
            if adapter in ADAPTERS and path.relative_to(ROOT).as_posix() not in MAY_NAME_ADAPTERS:
                wrong.append(name)
        elif top in HOMES and not HOMES[top] & {own, file} and top not in trainers:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_in_one_direction(path: Path) -> None:
    assert misplaced(path) == []


def test_the_walk_sees_a_wrong_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "store").mkdir()
    path = tmp_path / "store" / "bad.py"
    path.write_text("def f():\n    import torch\n    from softtargets.stream import batch\n")
    assert misplaced(path) == ["torch", "softtargets.stream"]


def modules() -> dict[str, Path]:
    """Return the files of all modules by their full names, packages too."""
    paths = {".".join(p.relative_to(ROOT.parent).with_suffix("").parts): p for p in walk()}
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


def walk() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imported(name: str, known: dict[str, Path]) -> set[str]:
    """Return the modules that one imports, in functions and for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(known[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & set(known) or {str(node.module)}
    return found & set(known) - {name}


def circle(known: dict[str, Path]) -> list[str]:
    """Return modules that import each other in turn; none if there are no such."""
    done: set[str] = set()

    def follow(name: str, before: list[str]) -> list[str]:
        if name in before:
            return before[before.index(name) :]
        if name in done:
            return []
        for other in sorted(imported(name, known)):
            if found := follow(other, [*before, name]):
                return found
        done.add(name)
        return []

    return next((found for name in known if (found := follow(name, []))), [])


def libraries() -> set[str]:
    """Return the names of Python's own modules, and of those that the package depends on."""
    with (ROOT.parent / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    needed = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = {re.split(r"[^\w-]", one)[0].replace("-", "_") for one in needed} - {"softtargets"}
    return names | set(HOMES) | sys.stdlib_module_names


def test_no_two_modules_share_a_name_and_none_has_that_of_a_library() -> None:
    names = Counter(p.stem for p in walk() if p.stem not in ("__init__", "__main__"))
    assert {name for name, count in names.items() if count > 1} == set()
    assert set(names) & libraries() == set()


def test_no_modules_import_each_other_in_turn() -> None:
    assert circle(modules()) == []


def test_files_and_functions_are_short() -> None:
    """No file has more than 300 lines, and fewer than ten functions have more than 40."""
    files = {path: path.read_text() for path in walk()}
    assert [path for path, text in files.items() if text.count("\n") > 300] == []
    functions = [
        f"{path.name}, {node.name}"
        for path, text in files.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 40
    ]
    assert len(functions) < 10, functions


def test_the_walk_sees_a_circle(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}.py" for name in "abc")
    first.write_text("import p.b")
    second.write_text("def f():\n    from p import c")
    third.write_text("from p.b import f")
    known = {"p.a": first, "p.b": second, "p.c": third}
    assert circle(known) == ["p.b", "p.c"]
    third.write_text("from p.d import f")
    assert circle(known) == []


@pytest.mark.slow
def test_a_store_opens_without_torch() -> None:
    script = "import sys, softtargets; softtargets.Store; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
def test_layouts_are_imported_when_asked_for() -> None:
    """Neither with a store nor by the commands; one by its name, without the others."""
    script = """
import sys
import softtargets.store, softtargets.stream, softtargets.cli.main
found = [name for name in sys.modules if name.startswith("softtargets.layouts")]
assert not found, found
from softtargets.layouts import find_layout
find_layout("plain")
assert not {f"softtargets.layouts.{name}" for name in ("axolotl", "distillkit")} & set(sys.modules)
from softtargets.store import export_axolotl
assert "softtargets.layouts.axolotl" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_names_of_layouts_are_found_where_they_were() -> None:
    for name, home in store._HOMES.items():
        assert getattr(store, name) is getattr(import_module(f"softtargets.layouts.{home}"), name)
    assert {"Stated", "export_plain", "import_lists"} < {*store._HOMES} < {*store.__all__}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = store.nothing


@pytest.mark.slow
def test_losses_are_imported_without_a_trainer() -> None:
    """Nor the files of the adapters, by any name."""
    absent = set().union(*ADAPTERS.values()).union(*train._RENAMED.items())
    script = f"import sys, softtargets.train; found = {absent!r} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{script}; assert not found, found"], check=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # Of a module of torch that TRL imports.
def test_every_public_name_of_train_resolves() -> None:
    for name in train.__all__:
        assert getattr(train, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = train.nothing


@pytest.mark.filterwarnings("ignore::FutureWarning")  # Of a module of torch that TRL imports.
@pytest.mark.parametrize(("old", "new"), sorted(train._RENAMED.items()))
def test_a_module_is_found_by_the_name_that_it_had(old: str, new: str) -> None:
    assert importlib.import_module(old) is importlib.import_module(new)
    assert importlib.import_module(new).__name__ == new


def test_every_public_name_resolves() -> None:
    for name in softtargets.__all__:
        assert getattr(softtargets, name) is not None
    assert sorted(softtargets._HOMES) == sorted(softtargets.__all__) == dir(softtargets)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = softtargets.nothing
