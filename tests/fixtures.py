"""Fixtures of all tests: a small store, object stores on loopback, and tiny teachers."""

from __future__ import annotations

import gc
import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from softtargets.store import Store
from tests.fakes import build_store, byte_tokenizer
from tests.object_store import (
    Bucket,
    Proxy,
    make_bucket,
    run_conditional_server,
    run_proxy,
    run_server,
)


@pytest.fixture(scope="session", autouse=True)
def _workers_end_at_once() -> Iterator[None]:
    """torch waits 5 seconds for each worker of a DataLoader that has raised, then ends it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
        yield


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What is logged while a test runs.

    pytest's own plugin, which would tell, goes through a thousand loggers six times a test.
    """
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.root.addHandler(handler)
    yield messages
    logging.root.removeHandler(handler)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> None:
    """Keep what is there out of collections of garbage, of which a trainer has one each time."""
    gc.collect()
    gc.freeze()


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
