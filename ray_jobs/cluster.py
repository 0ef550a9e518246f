"""Joining Ray: the cluster that started this process, or an embedded one of our own."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

QUIET = {
    "PYTHONWARNINGS": "ignore",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_TRAIN_V2_ENABLED": "1",
}
"""For every worker: the steps print their own progress, and the libraries' chatter would drown it. What workers print
stays in Ray's own logs; what they raise reaches the driver."""


@contextmanager
def connected() -> Iterator[None]:
    """Ray for the length of a `with`.

    Inside a submitted job Ray sets `RAY_ADDRESS`, and that cluster is joined. Otherwise an embedded one is started,
    which no other process joins, and ended with everything that runs in it. It declares at least eight logical CPUs:
    the bundles of Ray Data, Ray Train and vLLM ask for whole ones each, and share what the laptop really has.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {} if address else _embedded()
    ray.init(
        address=address or "local",
        logging_level=logging.WARNING,
        log_to_driver=False,
        runtime_env={"env_vars": QUIET, "worker_process_setup_hook": f"{__name__}.{name_cluster.__name__}"},
        **options,
    )
    try:
        yield
    finally:
        ray.shutdown()


def name_cluster() -> None:
    """Have a worker's own queries mean the worker's own cluster; each calls it as it begins.

    Ray Train asks every second whether its controller is still there, without saying where. On a machine with two Rays
    that finds the other one, which does not know the controller, and the training's workers are taken from it.
    """
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def _embedded() -> dict[str, Any]:
    # Ray makes a token for its local cluster by itself, and warns that it did.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    options: dict[str, Any] = {
        "num_cpus": max(8, os.cpu_count() or 1),
        "include_dashboard": False,
        # Told to those who ask for the state of this cluster, though nobody answers there: the usual port may be
        # that of another cluster, which knows nothing of this one.
        "dashboard_port": _free_port(),
        "_node_ip_address": "127.0.0.1",
    }
    if folder := os.environ.get("STILLHOUSE_RAY_TEMP_DIR"):
        options["_temp_dir"] = folder
    return options


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
