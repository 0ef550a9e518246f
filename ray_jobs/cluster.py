"""Joining Ray: the cluster that started this process, or an embedded one of our own."""

from __future__ import annotations

import logging
import os
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
        runtime_env={"env_vars": QUIET},
        **options,
    )
    try:
        yield
    finally:
        ray.shutdown()


def _embedded() -> dict[str, Any]:
    # Ray makes a token for its local cluster by itself, and warns that it did.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    options: dict[str, Any] = {
        "num_cpus": max(8, os.cpu_count() or 1),
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
    }
    if folder := os.environ.get("STILLHOUSE_RAY_TEMP_DIR"):
        options["_temp_dir"] = folder
    return options
