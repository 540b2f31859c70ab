"""Tests on a real cluster of Ray: `make ray`, which has an environment of its own for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NO_RAY = "no ray here: `make ray` installs it and runs these"
MUST_RUN = "SOFTTARGETS_RAY"
"""Set by `make ray`, so that nothing is skipped there."""
ROOT = Path(__file__).parents[2]
NODE = {
    "num_cpus": 2,
    "num_gpus": 0,
    "object_store_memory": 80 << 20,
    "include_dashboard": False,
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if find_spec("ray") is None and MUST_RUN not in os.environ:
        for item in items:
            if Path(item.path).parent == Path(__file__).parent:
                item.add_marker(pytest.mark.skip(reason=NO_RAY))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes on this machine, to which this process is connected."""
    with run_cluster() as cluster:
        yield cluster


@contextmanager
def run_cluster() -> Iterator[Any]:
    """Run such a cluster."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        # Nothing of these tests leaves the machine.
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(initialize_head=True, head_node_args=NODE)
        cluster.add_node(**NODE)
        ray.init(cluster.address, log_to_driver=False)
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
