"""Running units on a cluster of Ray: an actor for each worker, which loads its teacher once.

The driver, which is the process that builds, hands out the numbers of units and gets back records.
An actor reads a unit from the store's place and writes its shard there, so nothing large passes
through the driver or through Ray.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator
from importlib.util import find_spec
from typing import Any

from softtargets.engines.actor_pool import CALLS, ActorPool
from softtargets.engines.engine import Event, Job
from softtargets.engines.unit_runner import UnitRunner
from softtargets.errors import InputError, error_text


class RayActors:
    """Runs units in so many actors of a Ray cluster; one that dies is replaced.

    Each node needs the same software, and a teacher that is found under the same name. The store
    lies where all nodes see it. The process stays connected to the cluster until it ends.

    Args:
        num_workers: actors. Those that the cluster has no room for are waited for.
        address: of the cluster, as of `ray.init`. By default it is RAY_ADDRESS, or the cluster of
            this machine; if there is none, one is started here.
        gpus_per_worker: of each actor, which may be a part of one. By default it is 1 if the
            cluster has any now, else 0.
        cpus_per_worker: of each actor. Ray lets torch use as many threads.

    Raises:
        InputError: Ray is not installed, or a number is out of its range.
    """

    def __init__(
        self,
        num_workers: int,
        *,
        address: str | None = None,
        gpus_per_worker: float | None = None,
        cpus_per_worker: float = 1,
    ) -> None:
        if find_spec("ray") is None:
            raise InputError(
                "--engine ray",
                expected="the package ray",
                found="none",
                next_step="Install it on all nodes: pip install 'softtargets[ray]'.",
            )
        if num_workers < 1:
            raise InputError(
                "--workers",
                expected="a positive number",
                found=str(num_workers),
                next_step="Pass 1, or one for each GPU.",
            )
        _check_share("--gpus-per-worker", gpus_per_worker or 0)
        _check_share("cpus_per_worker", cpus_per_worker)
        self.num_workers = num_workers
        self.address = address
        self.gpus_per_worker = gpus_per_worker
        self.cpus_per_worker = cpus_per_worker

    def run(self, job: Job, take: Callable[[], int | None]) -> Generator[Event]:
        """Run units until none can be had.

        Raises:
            InputError: there is no cluster at the address.
            StoreError: the system refused to write, or no worker gets as far as a unit.
            SoftTargetsError: what kept the teacher from loading.
        """
        unit = take()
        if unit is None:
            return
        pool = ActorPool(job, take, unit, self._actor_class())
        try:
            yield from pool.run(self.num_workers)
        finally:
            pool.stop()

    def _actor_class(self) -> Any:
        """Connect to the cluster unless this process is connected, and return what makes actors."""
        import ray

        if not ray.is_initialized():
            try:
                # What actors print is in the logs of Ray: here it would be mixed with the progress.
                ray.init(self.address, log_to_driver=False, logging_level=logging.WARNING)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise InputError(
                    "--ray-address",
                    expected="the address of a Ray cluster",
                    found=f"{self.address or 'none'}: {error_text(error)}",
                    next_step="Start a cluster with 'ray start --head', or name the one that runs.",
                ) from error
        gpus = self.gpus_per_worker
        if gpus is None:
            gpus = 1 if ray.cluster_resources().get("GPU") else 0
        return ray.remote(UnitRunner).options(
            num_cpus=self.cpus_per_worker,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=CALLS,
            # So that a node that dies takes few of them along.
            scheduling_strategy="SPREAD",
        )


def _check_share(name: str, number: float) -> None:
    if not (math.isfinite(number) and number >= 0):
        raise InputError(
            name,
            expected="a number of 0 or more",
            found=f"{number:g}",
            next_step="Pass how much of a node each worker takes, for example 1 or 0.5.",
        )
