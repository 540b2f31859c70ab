"""Files below a directory: no link is followed, nothing but files is opened, errors are ours."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from softtargets.errors import StoreError
from softtargets.places.tree import Tree

READS: dict[str, Callable[[Tree, str], object]] = {
    "open_file": Tree.open_file,
    "get": Tree.get,
    "size": Tree.size,
    "hash": Tree.hash,
    "open_lock": Tree.open_lock,
}
WRITES: dict[str, Callable[[Tree, str], object]] = {
    "put": lambda tree, path: tree.put(path, b"new"),
    "move": lambda tree, path: tree.move("here", path),
}
EVERY = {**READS, **WRITES}


def bind(path: Path) -> None:
    # A path of a socket may not be long.
    with socket.socket(socket.AF_UNIX) as server:
        descriptor = os.open(path.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{descriptor}/{path.name}")
        os.close(descriptor)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a symbolic link": lambda path: path.symlink_to("here"),
    "a named pipe": os.mkfifo,
    "a directory": Path.mkdir,
    "a socket": bind,
}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "here").write_bytes(b"here")
    (tmp_path / "inner" / "deep").mkdir(parents=True)
    (tmp_path / "inner" / "deep" / "file").write_bytes(b"deep")
    return Tree(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", EVERY)
def test_nothing_but_a_file_is_opened(tree: Tree, name: str, kind: str) -> None:
    SPECIAL[kind](tree.root / "inner" / "other")
    with pytest.raises(StoreError, match=f"inner/other: expected a file; found {kind}"):
        EVERY[name](tree, "inner/other")
    assert (tree.root / "here").read_bytes() == b"here"


@pytest.mark.parametrize("name", [*EVERY, "names", "make_directory"])
def test_no_directory_on_the_way_is_a_link(tree: Tree, name: str) -> None:
    (tree.root / "link").symlink_to("inner")
    act = {**EVERY, "names": Tree.names, "make_directory": Tree.make_directory}[name]
    for path in ("link/deep/file", "link/deep", "link/new"):
        with pytest.raises(StoreError, match="link: expected a directory; found a symbolic link"):
            act(tree, path)
    assert sorted(one.name for one in (tree.root / "inner").iterdir()) == ["deep"]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("path", ["x" * 300, "a\0b", "here/file", "inner/" + "x" * 300])
def test_a_path_that_cannot_be_is_an_error_of_ours(tree: Tree, name: str, path: str) -> None:
    with pytest.raises(StoreError):
        EVERY[name](tree, path)


def test_the_root_may_be_a_link(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "root").symlink_to("inner")
    other = Tree(tmp_path / "root")
    assert other.get("deep/file") == b"deep"
    other.put("new", b"new")
    assert (tmp_path / "inner" / "new").read_bytes() == b"new"


def test_a_root_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path / "file"):
        (tmp_path / "file").write_text("")
        tree = Tree(root)
        assert [act(tree, "a") for act in (Tree.get, Tree.size, Tree.hash, Tree.open_file)] == [
            None
        ] * 4
        assert tree.names("") == tree.names("a") == []
        with pytest.raises(StoreError):
            tree.put("a", b"")


def test_a_file_whose_name_is_no_text_is_named_and_read(tree: Tree) -> None:
    name = os.fsdecode(b"\xff\xfe")
    tree.put(name, b"odd")
    assert tree.names("") == ["here", "inner/", name]
    assert tree.get(name) == b"odd"


def test_a_link_that_appears_after_the_look_is_not_followed(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a look at a file and its opening somebody puts a link in its place."""
    (tree.root / "secret").write_bytes(b"secret")

    def look(self: Tree, path: str, parent: int, name: str) -> None:
        (self.root / path).unlink()
        (self.root / path).symlink_to("secret")

    monkeypatch.setattr(Tree, "_check_replaceable", look)
    with pytest.raises(StoreError, match="here: cannot be read: Too many"):
        tree.get("here")


READ_ALONE = """
import os, sys
from pathlib import Path
from softtargets.errors import StoreError
from softtargets.places.tree import Tree
os.seteuid(65534)
tree = Tree(Path(sys.argv[1]))
for act in (tree.get, tree.size, tree.names, lambda path: tree.put(path, b"")):
    try:
        act("closed/file")
        sys.exit("not refused")
    except StoreError as error:
        assert "Permission denied" in str(error), error
for act in (tree.get, tree.hash, tree.open_lock):
    try:
        act("private")
        sys.exit("not refused")
    except StoreError as error:
        assert "Permission denied" in str(error), error
assert tree.get("passage/file") == b"public"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_what_is_not_permitted_is_an_error_of_ours(tmp_path: Path) -> None:
    for name, mode in (("closed", 0o700), ("passage", 0o711)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"public")
        (tmp_path / name).chmod(mode)
    (tmp_path / "private").write_bytes(b"secret")
    (tmp_path / "private").chmod(0o600)
    for path in (tmp_path, *tmp_path.parents):
        path.chmod(path.stat().st_mode | 0o111)
    subprocess.run([sys.executable, "-c", READ_ALONE, tmp_path], check=True)


def test_a_write_that_fails_leaves_nothing(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StoreError, match="here: 3 bytes cannot be written: No space left"):
        tree.put("here", b"new")
    assert tree.names("") == ["here", "inner/"]
    assert tree.get("here") == b"here"


def test_what_is_not_empty_or_gone_is_not_removed(tree: Tree) -> None:
    tree.remove_directory("inner")
    tree.remove_directory("nowhere/at/all")
    tree.delete("nowhere/at/all")
    assert tree.get("inner/deep/file") == b"deep"
    tree.delete("inner/deep/file")
    tree.remove_directory("inner/deep")
    assert tree.names("inner") == []
