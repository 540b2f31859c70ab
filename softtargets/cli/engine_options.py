"""The options that say where units of work run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from softtargets.errors import InputError

if TYPE_CHECKING:
    from softtargets.engines import Engine

ENGINE_OPTIONS = (
    click.option(
        "--engine",
        "engine_name",
        type=click.Choice(["local", "ray"]),
        default="local",
        help="local: units run on this machine, in --workers processes. ray: they run on a "
        "cluster of Ray, in --workers actors.",
    ),
    click.option(
        "--ray-address",
        metavar="ADDRESS",
        help="Address of the cluster, as host:6379. By default it is RAY_ADDRESS, or the cluster "
        "that this machine is of; if there is none, one is started here.",
    ),
    click.option(
        "--gpus-per-worker",
        type=float,
        metavar="F",
        help="GPUs of each actor of Ray, for example 0.5. By default it is 1 where the cluster has "
        "any, else 0.",
    ),
)
"""Where units run."""


def parse_engine(
    engine_name: str, ray_address: str | None, gpus_per_worker: float | None, *, workers: int
) -> Engine | None:
    """Return where units run, or None for as many processes of this machine as there are workers.

    Raises:
        InputError: an option is of Ray, and Ray is not meant, or not installed.
    """
    of_ray: dict[str, Any] = {"--ray-address": ray_address, "--gpus-per-worker": gpus_per_worker}
    given = [name for name, value in of_ray.items() if value is not None]
    if engine_name == "ray":
        from softtargets.engines import RayActors

        return RayActors(workers, address=ray_address, gpus_per_worker=gpus_per_worker)
    if given:
        raise InputError(
            ", ".join(given),
            expected="--engine ray with it",
            found=f"--engine {engine_name}",
            next_step="Add --engine ray, or omit it.",
        )
    return None
