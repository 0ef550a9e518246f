"""Joining Ray: the cluster that started this process, or an embedded one of our own."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def connected(*, logical_cpus: int | None = None) -> Iterator[None]:
    """Ray for the length of a `with`.

    Inside a submitted job Ray sets `RAY_ADDRESS`, and that cluster is joined. Otherwise an embedded one is started, which
    no other process joins, and ended with everything that runs in it.

    Args:
        logical_cpus: what the embedded cluster declares; a laptop may need more than it has, since
            bundles of vLLM and Ray Train ask for whole CPUs each.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    options = {} if address else {"num_cpus": logical_cpus, "include_dashboard": False}
    if not address and (folder := os.environ.get("STILLHOUSE_RAY_TEMP_DIR")):
        options["_temp_dir"] = folder
    ray.init(
        address=address or "local",
        logging_level=logging.WARNING,
        log_to_driver=True,
        configure_logging=True,
        **options,
    )
    try:
        yield
    finally:
        ray.shutdown()
