from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "softtargets").rglob("__init__.py")
    }
    assert set(listed) == found | {"softtargets.schemas"}


@pytest.mark.slow
def test_the_wheel_carries_the_specification(tmp_path: Path) -> None:
    # From a copy, since setuptools leaves a build folder behind that a later wheel would include.
    source = tmp_path / "source"
    for name in ("softtargets", "schemas"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True)
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "softtargets/py.typed",
        "softtargets/schemas/FORMAT.md",
        "softtargets/schemas/manifest.schema.json",
        "softtargets/store/schema.py",
        "softtargets/cli/main.py",
    } <= names
    assert not any(name.startswith(("tests", "schemas")) for name in names)
