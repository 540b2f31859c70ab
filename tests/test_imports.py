"""Imports run like the data: train -> stream -> store <- capture, cli above all."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import softtargets

ROOT = Path(softtargets.__file__).parent
BELOW_ALL = {
    "errors",
    "limits",
    "texts",
    "urls",
    "kinds",
    "targets",
    "tokenizer",
    "window",
    "schemas",
}
MAY_IMPORT = {
    "urls": set[str](),
    "texts": {"urls"},
    "errors": {"texts"},
    "limits": {"errors"},
    "targets": {"errors"},
    "kinds": {"targets"},
    "tokenizer": {"errors", "targets"},
    "window": {"targets"},
    "store": BELOW_ALL,
    "report": BELOW_ALL | {"store"},
    "capture": BELOW_ALL | {"store"},
    "sharing": BELOW_ALL | {"store"},
    "stream": BELOW_ALL | {"store"},
    "train": BELOW_ALL | {"store", "stream"},
    "fidelity": BELOW_ALL | {"store", "capture", "stream", "train"},
    "demo": BELOW_ALL | {"store", "capture", "stream", "train", "fidelity"},
    "cli": BELOW_ALL
    | {"store", "capture", "stream", "train", "fidelity", "demo", "sharing", "report"},
    "__init__": BELOW_ALL | {"store", "stream", "train"},
    "__main__": {"cli"},
}
ADAPTERS = {
    "train/accelerate.py": {"accelerate"},
    "train/hf_place.py": {"transformers"},
    "train/hf_trainer.py": {"accelerate", "transformers"},
    "train/lightning.py": {"lightning"},
    "train/trl.py": {"datasets", "trl"},
}
"""Files that may import a trainer; nothing else imports them."""
HOMES = {
    "torch": {"capture", "stream", "train", "fidelity", "demo"},
    "transformers": {"capture", "fidelity", "demo", "cli"},
    "huggingface_hub": {"capture", "sharing"},
    "pyarrow": {"store", "capture"},
    "fsspec": {"store"},
    "tenacity": {"store"},
    "yaml": {"sharing", "store"},
    "jsonschema_rs": {"store"},
    "click": {"cli"},
    "datasets": {"capture", "store/iterable_dataset"},
    "rich": {"cli"},
    "jinja2": {"capture", "report"},
    "matplotlib": {"demo", "fidelity"},
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
            if rest and rest[0] not in MAY_IMPORT[own] | {own}:
                wrong.append(name)
            adapter = f"{'/'.join(rest)}.py"
            if adapter in ADAPTERS and path.relative_to(ROOT).as_posix() not in ADAPTERS:
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


def test_a_store_opens_without_torch() -> None:
    script = "import sys, softtargets; softtargets.Store; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_public_name_resolves() -> None:
    for name in softtargets.__all__:
        assert getattr(softtargets, name) is not None
    assert sorted(softtargets._HOMES) == sorted(softtargets.__all__) == dir(softtargets)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = softtargets.nothing
