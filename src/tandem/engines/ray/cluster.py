"""The Ray cluster that a command works on, and the machines in it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tandem.errors import ConfigError, EngineError

ADDRESS = "RAY_ADDRESS"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one worker runs: a GPU of a machine, or a machine without any.

    Attributes:
        node: Ray's name of the machine.
        index: which of the machine's workers this is.
        gpus: GPUs of the worker: 1, or 0 on a machine without any.
    """

    node: str
    index: int
    gpus: int


def join_cluster(asked_by: str, instead: str, *, log: bool = False) -> tuple[Any, bool]:
    """Join the cluster that RAY_ADDRESS names, or begin one on this machine.

    Args:
        asked_by: the setting that wants Ray, as it was written.
        instead: what to give to do without.
        log: show here what the workers print.

    Returns:
        The module `ray`, and whether this call joined (else the process was in a cluster already).

    Raises:
        ConfigError: Ray is not installed.
        EngineError: there is no cluster where RAY_ADDRESS says.
    """
    check_cluster(asked_by, instead)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    ray: Any = importlib.import_module("ray")
    if ray.is_initialized():
        return ray, False
    try:
        ray.init(log_to_driver=log, include_dashboard=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        raise _no_cluster(error, instead) from error
    return ray, True


def check_cluster(asked_by: str, instead: str) -> None:
    """Refuse Ray where it is not installed, or nobody answers at RAY_ADDRESS.

    Raises:
        ConfigError: Ray is not installed.
        EngineError: there is no cluster where RAY_ADDRESS says.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            asked_by, "Ray is not installed", f"`pip install 'tandem-rlhf[ray]'`, or {instead}"
        )
    host, _, port = os.environ.get(ADDRESS, "").rpartition(":")
    if "/" in host or not port.isdigit():
        return
    try:  # Ray itself would go on trying for minutes
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise _no_cluster(error, instead) from error


def _no_cluster(error: Exception, instead: str) -> EngineError:
    return EngineError(
        f"no Ray cluster at {os.environ.get(ADDRESS, 'this machine')}: {error}",
        f"{ADDRESS} says which cluster a command joins",
        f"start one (`ray start --head`), correct {ADDRESS} or unset it; or {instead}",
    )


def living_places(ray: Any) -> Iterator[Place]:
    """Yield where workers can run: each GPU of the cluster, and each machine without one."""
    for node in ray.nodes():
        if node["Alive"]:
            gpus = int(node["Resources"].get("GPU", 0))
            for index in range(max(1, gpus)):
                yield Place(node["NodeID"], index, min(1, gpus))
