"""How pytest runs the tests. Their fixtures are in `fixtures.py`."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from softtargets.tokenizer import no_collections
from tests.processes import server_address, use_server

_MEMORY = Path("/dev/shm")
_ROOM = 8 << 30
"""More bytes than all tests hold at a time."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep tests off the hubs, and let them write into memory if there is room.

    Half of their time went into disk syncs. Who only distributes tests to other processes needs no
    fixtures, which import torch: tests begin some seconds earlier so.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    has_room = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM
    if "TMPDIR" not in os.environ and has_room and os.access(_MEMORY, os.W_OK):
        os.environ["TMPDIR"] = str(_MEMORY)
        tempfile.tempdir = None  # It is read anew.
    if (address := getattr(config, "workerinput", {}).get("server")) is not None:
        use_server(address)
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        with no_collections():
            config.pluginmanager.import_plugin("tests.fixtures")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Have one server fork the processes of all that run tests at a time, as it imports torch.

    Quick tests need none.
    """
    if "not slow" not in node.config.option.markexpr:
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


def pytest_sessionfinish() -> None:
    """Have all of it collected at the end: DuckDB would list what is left, in 100 lines."""
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes a minute or more: at the end one process would wait for the other.

    Where a process steals such tests from the end of the other's, both load the same teacher.
    """
    places = {name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(_LONG)))
