"""Joining Ray: the cluster that started this process, or an embedded one of our own."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
}
"""For every worker: the steps print their own progress, and the libraries' chatter would drown it."""


@contextmanager
def connected() -> Iterator[None]:
    """Ray for the length of a `with`.

    Inside a submitted job Ray sets `RAY_ADDRESS`, and that cluster is joined. Otherwise an embedded one is started, which
    no other process joins, and ended with everything that runs in it. It declares at least eight logical CPUs: the bundles of
    Ray Data, Ray Train and vLLM ask for whole ones each, and share what the laptop really has.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {}
    if not address:
        options = {"num_cpus": max(8, os.cpu_count() or 1), "include_dashboard": False}
    if not address and (folder := os.environ.get("STILLHOUSE_RAY_TEMP_DIR")):
        options["_temp_dir"] = folder
    ray.init(
        address=address or "local",
        logging_level=logging.WARNING,
        log_to_driver=True,
        runtime_env={"env_vars": QUIET},
        **options,
    )
    try:
        yield
    finally:
        ray.shutdown()
