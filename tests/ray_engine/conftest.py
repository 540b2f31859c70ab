"""Tests on a real cluster of Ray: `make ray`, which has an environment of its own for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.environments import skip_without

ROOT = Path(__file__).parents[2]
NODE = {
    "num_cpus": 2,
    "num_gpus": 0,
    "object_store_memory": 80 << 20,
    "include_dashboard": False,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them where it is not installed, but not by `make ray`, which sets the variable."""
    skip_without(
        "ray",
        items,
        directory=Path(__file__).parent,
        unless="SOFTTARGETS_RAY",
        reason="no ray here: `make ray` installs it and runs these",
    )


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
