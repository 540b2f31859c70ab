"""Fixtures: a small store, and a tiny teacher that transformers loads like any other."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from softtargets.store import Store
from softtargets.tokenizer import no_collections
from tests.fakes import build_store, byte_tokenizer
from tests.object_store import (
    Bucket,
    Proxy,
    make_bucket,
    run_conditional_server,
    run_proxy,
    run_server,
)
from tests.processes import server_address, use_server

_MEMORY = Path("/dev/shm")
_ROOM = 8 << 30
"""More bytes than all tests hold at a time."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep tests off the hubs, and let them write into memory if there is room.

    Half of their time went into disk syncs.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    has_room = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM
    if "TMPDIR" not in os.environ and has_room and os.access(_MEMORY, os.W_OK):
        os.environ["TMPDIR"] = str(_MEMORY)
        tempfile.tempdir = None  # It is read anew.
    if (address := getattr(config, "workerinput", {}).get("server")) is not None:
        use_server(address)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Have one server fork the processes of all that run tests at a time, as it imports torch."""
    node.workerinput["server"] = server_address()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while the modules of tests are imported: there is none."""
    with no_collections():
        return (yield)


_LONG = (
    "test_trial.py",
    "test_smollm2.py",
    "test_crash.py",
    "test_compiled_decoders.py",
    "test_documents.py",
)
"""Files with the longest tests, the longest first."""


# No test depends on the clock.
settings.register_profile(
    "softtargets", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("softtargets")


@pytest.fixture(scope="session", autouse=True)
def _workers_end_at_once() -> Iterator[None]:
    """torch waits 5 seconds for each worker of a DataLoader that has raised, then ends it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> None:
    """Keep what is there out of collections of garbage, of which a trainer has one each time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Have all of it collected at the end: DuckDB would list what is left, in 100 lines."""
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes a minute or more: at the end one process would wait for the other.

    Where a process steals such tests from the end of the other's, both load the same teacher.
    """
    places = {name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(_LONG)))


@pytest.fixture(scope="session")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what `build_store` makes."""
    directory = tmp_path_factory.mktemp("built")
    build_store(directory)
    return directory


@pytest.fixture
def store(_built: Path, tmp_path: Path) -> Store:
    """A small store of the fake teacher, a copy of its own for every test."""
    shutil.copytree(_built, tmp_path, dirs_exist_ok=True)
    return Store.open(tmp_path / "store")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield directory
    # Actors of Ray end some milliseconds later, and are there until then.
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """An S3 server on loopback: the directory of its buckets, and its port."""
    directory = tmp_path_factory.mktemp("buckets")
    with run_server(directory) as port:
        yield directory, port


@pytest.fixture
def bucket(server: tuple[Path, int]) -> Iterator[Bucket]:
    """A bucket of its own for every test, behind a proxy that counts and injects faults."""
    directory, port = server
    with run_proxy(port) as proxy:
        yield Bucket(directory, proxy)


@pytest.fixture(scope="session")
def conditional_server() -> Iterator[int]:
    """The port of an S3 server on loopback that knows conditional writes."""
    with run_conditional_server() as port:
        yield port


@pytest.fixture
def object_proxy(conditional_server: int) -> Iterator[Proxy]:
    """That server, behind a proxy that counts and injects faults."""
    with run_proxy(conditional_server) as proxy:
        yield proxy


@pytest.fixture
def object_url(object_proxy: Proxy) -> str:
    """The URL of a store to be, in a bucket of its own, behind the proxy."""
    return object_proxy.url(f"{make_bucket(object_proxy.server_port)}/some/store")


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a random Llama of 400 outputs and a tokenizer of 256 bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The directory of the demo's teacher."""
    from softtargets.demo.smollm import teacher_directory
    from tests.gguf_reading import read_once

    with read_once():
        return teacher_directory()
