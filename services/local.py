"""Serving on this machine: a Ray of its own, an application behind a port, and a quiet end.

What a laptop's commands have in common; on a cluster Serve takes the applications by their import paths.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.deployment import Application
from ray.serve.exceptions import RayServeException

from services.command import is_loopback, tell

_QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
"""For the workers of the embedded Ray: their logs lie in its session folder, and hold what went wrong."""


def serve_until_interrupted(
    application: Callable[[], Application],
    *,
    name: str,
    cpus: Callable[[], int],
    host: str,
    port: int,
    ready: Callable[[], str],
) -> None:
    """Serve an application on an embedded Ray, until SIGINT or SIGTERM.

    Args:
        application: builds it; called when Ray is there.
        name: the Serve application's.
        cpus: logical CPUs that its deployments ask for.
        ready: what is said when it answers.

    Raises:
        RuntimeError: a deployment does not start.
    """
    with _embedded(name, cpus):
        serve.start(http_options=HTTPOptions(host=host, port=port))
        try:
            serve.run(application(), name=name, route_prefix="/")
        except RuntimeError as error:
            raise RuntimeError(_reasons(name) or str(error)) from error
        tell(ready())
        if not is_loopback(host):
            tell(f"anyone who reaches {host}:{port} can ask: it takes no keys")
        threading.Event().wait()


@contextmanager
def _embedded(name: str, cpus: Callable[[], int]) -> Iterator[None]:
    """A Ray of our own, which no other process joins; it ends with everything that runs in it."""
    for variable, value in (_QUIET | {"RAY_USAGE_STATS_ENABLED": "0"}).items():
        os.environ.setdefault(variable, value)
    # A start that fails once fails again: no three tries of a minute each before the user hears of it.
    os.environ.setdefault("RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT", "1")
    # Ray warns that it protects the embedded cluster by a token, which is as it should be.
    for chatter in ("ray.serve", "ray._private.authentication", "vllm"):
        logging.getLogger(chatter).setLevel(logging.ERROR)
    wanted = cpus()  # imports vLLM, which reads the environment above
    options = {"_temp_dir": folder} if (folder := os.environ.get("STILLHOUSE_RAY_TEMP_DIR")) else {}
    try:
        ray.init(
            address="local",
            # Logical ones: the deployments ask for whole CPUs each, and share what the laptop really has.
            num_cpus=max(wanted, os.cpu_count() or 1),
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=False,
            runtime_env={"env_vars": _QUIET},
            _node_ip_address="127.0.0.1",
            **options,
        )
        yield
    finally:
        # A second Ctrl-C must not leave half of it running.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        tell("ends")
        # The replicas in order, then the rest by force: `serve.shutdown` has Ray complain of its own controller's end.
        with suppress(RayServeException):
            serve.delete(name)
        ray.shutdown()


def _reasons(name: str) -> str:
    """Why deployments of the application did not start: the last exception of each one's traceback."""
    application = serve.status().applications.get(name)
    failed = application.deployments if application else {}
    return "; ".join(f"{each}: {_cause(found.message)}" for each, found in failed.items() if _cause(found.message))


def _cause(message: str) -> str:
    raised = list(re.finditer(r"^[\w.]+(?:Error|Exception): ", message, re.MULTILINE))
    return " ".join(message[raised[-1].start() :].split())[:600] if raised else ""
