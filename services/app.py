"""The Serve application: student, teacher, and the gateway before them.

On a cluster Serve takes it by its import path, `services.app:build` with the argument `run`; on a laptop
`python -m services.app --run URI` serves the same application on an embedded Ray.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.deployment import Application
from ray.serve.exceptions import RayServeException

from services.gateway import deployment as gateway
from services.gateway.responses import names
from services.student import locate, policy, student
from services.teacher import teacher
from stillhouse import models
from stillhouse.errors import USER_ERROR_EXIT_CODE, UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run

NAME = "stillhouse"
"""The Serve application's name."""

_QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
"""For the workers of the embedded Ray: their logs lie in its session folder, and hold what went wrong."""


class Arguments(BaseModel):
    """What the application is built from."""

    model_config = ConfigDict(extra="forbid")

    run: str = Field(min_length=1, description="A finished run: a folder, or s3://bucket/prefix.")


def build(args: dict[str, Any]) -> Application:
    """The Serve application of a run.

    Raises:
        UserError: the arguments are wrong, or the run cannot be served.
    """
    try:
        run = Run.open(Arguments.model_validate(args).run)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors())
        raise UserError(f"the application's arguments are wrong: {problems}") from error
    recipe = run.recipe()
    _, student_name, teacher_name = names(recipe.name)
    return gateway.deployment(
        recipe,
        policy(run, recipe),
        student=student(recipe, student_name, run),
        teacher=teacher(recipe, teacher_name),
    )


def serve_locally(run_uri: str, host: str | None, port: int | None) -> None:
    """Serve a run on an embedded Ray, until SIGINT or SIGTERM.

    Raises:
        UserError: the run cannot be served, or the port is taken.
        RuntimeError: an engine does not start.
    """
    began = time.monotonic()
    run = Run.open(run_uri)
    recipe = run.recipe()
    host = host or recipe.serving.host
    port = recipe.serving.port if port is None else port
    _require_free(host, port)
    # The user's mistakes come to light here, in a sentence, and not in a replica's log.
    threshold = policy(run, recipe).threshold
    locate(run.uri)
    models.resolve(recipe.teacher.model)
    if models.is_dequantised(recipe.teacher.model):
        _say("the teacher's weights are dequantised from GGUF")
    alone = "the student answers nothing alone" if threshold is None else f"the student answers from {threshold:.3f} on"
    _say(f"reads {run.uri}; {alone}")
    _say("starts student and teacher side by side")
    with _embedded(recipe):
        serve.start(http_options=HTTPOptions(host=host, port=port))
        try:
            serve.run(build({"run": run.uri}), name=NAME, route_prefix="/")
        except RuntimeError as error:
            raise RuntimeError(_reasons() or str(error)) from error
        offered = ", ".join(names(recipe.name))
        _say(f"ready after {time.monotonic() - began:.0f} s: http://{host}:{port}/v1 ({offered}); Ctrl-C ends it")
        if not _is_loopback(host):
            _say(f"anyone who reaches {host}:{port} can ask: it takes no keys")
        threading.Event().wait()


@contextmanager
def _embedded(recipe: Recipe) -> Iterator[None]:
    """A Ray of our own, which no other process joins; it ends with everything that runs in it."""
    for name, value in (_QUIET | {"RAY_USAGE_STATS_ENABLED": "0"}).items():
        os.environ.setdefault(name, value)
    # A start that fails once fails again: no three tries of a minute each before the user hears of it.
    os.environ.setdefault("RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT", "1")
    # Ray warns that it protects the embedded cluster by a token, which is as it should be.
    for chatter in ("ray.serve", "ray._private.authentication", "vllm"):
        logging.getLogger(chatter).setLevel(logging.ERROR)
    from services.vllm_server import logical_cpus  # imports vLLM, which reads the environment above

    wanted = gateway.CPUS + logical_cpus(recipe.student.engine) + logical_cpus(recipe.teacher.engine)
    options = {"_temp_dir": folder} if (folder := os.environ.get("STILLHOUSE_RAY_TEMP_DIR")) else {}
    try:
        ray.init(
            address="local",
            # Logical ones: student and teacher ask for whole CPUs each, and share what the laptop really has.
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
        _say("ends")
        # The replicas in order, then the rest by force: `serve.shutdown` has Ray complain of its own controller's end.
        with suppress(RayServeException):
            serve.delete(NAME)
        ray.shutdown()


def _reasons() -> str:
    """Why deployments of the application did not start: the last exception of each one's traceback."""
    application = serve.status().applications.get(NAME)
    failed = application.deployments if application else {}
    return "; ".join(f"{name}: {_cause(found.message)}" for name, found in failed.items() if _cause(found.message))


def _cause(message: str) -> str:
    raised = list(re.finditer(r"^[\w.]+(?:Error|Exception): ", message, re.MULTILINE))
    return " ".join(message[raised[-1].start() :].split())[:600] if raised else ""


def _require_free(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot listen on {host}:{port} ({reason}): choose another with --host and --port") from error


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _say(text: str) -> None:
    print(f"[serve] {text}", flush=True)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """`python -m services.app`: a user's mistake is one sentence and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m services.app", description="Serve a finished run.")
    parser.add_argument("--run", required=True, help="a finished run: a folder, or s3://bucket/prefix")
    parser.add_argument("--host", help="address to listen on (default: the recipe's)")
    parser.add_argument("--port", type=int, help="port (default: the recipe's)")
    words = parser.parse_args()
    # `docker stop` sends SIGTERM: end as Ctrl-C does. And a shell's background job begins with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        serve_locally(words.run, words.host, words.port)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR_EXIT_CODE)
    except RuntimeError as error:
        print(f"error: the endpoint did not start: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
