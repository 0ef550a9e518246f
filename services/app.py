"""The Serve application: student, teacher, and the gateway before them.

On a cluster Serve takes it by its import path, `services.app:build` with the argument `run`; on a laptop
`python -m services.app --run URI` serves the same application on an embedded Ray.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray.serve.deployment import Application

from services.arguments import parsed
from services.command import require_free, run_command, tell
from services.gateway import deployment as gateway
from services.gateway.responses import names
from services.local import serve_until_interrupted
from services.student import locate, policy, student
from services.teacher import require_weights, teacher
from stillhouse import models
from stillhouse.endpoint.student import chat_model, remote_student
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.teachers import tuned

NAME = "stillhouse"
"""The Serve application's name."""


class Arguments(BaseModel):
    """What the application is built from."""

    model_config = ConfigDict(extra="forbid")

    run: str = Field(min_length=1, description="A finished run: a folder, or s3://bucket/prefix.")


def build(args: dict[str, Any]) -> Application:
    """The Serve application of a run.

    Raises:
        UserError: the arguments are wrong, or the run cannot be served.
    """
    run = Run.open(parsed(Arguments, args).run)
    recipe = tuned(run.recipe(), run)
    require_weights(recipe)
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
    require_free(host, port)
    # The user's mistakes come to light here, in a sentence, and not in a replica's log.
    require_weights(recipe)
    found = policy(run, recipe)
    locate(run.uri)
    models.resolve(tuned(recipe, run).teacher.model)
    if models.is_dequantised(recipe.teacher.model):
        tell("the teacher's weights are dequantised from GGUF")
    alone = (
        "the policy is not released, and the student answers nothing alone"
        if found.threshold is None
        else f"the student answers from a {found.score.name} of {found.threshold:g} on"
    )
    tell(f"reads {run.uri}; {alone}")
    remote = remote_student(recipe, run)
    if remote is None:
        tell("starts student and teacher side by side")
    else:
        chat_model(remote, recipe)  # its key is missing here, or nowhere
        tell(f"the student is {remote.model} at {remote.url}; starts the teacher")

    def ready() -> str:
        offered = ", ".join(names(recipe.name))
        return f"ready after {time.monotonic() - began:.0f} s: http://{host}:{port}/v1 ({offered}); Ctrl-C ends it"

    serve_until_interrupted(
        lambda: build({"run": run.uri}), name=NAME, cpus=lambda: _cpus(recipe), host=host, port=port, ready=ready
    )


def _cpus(recipe: Recipe) -> int:
    from services.vllm_server import logical_cpus

    own = logical_cpus(recipe.student.engine) if recipe.student.openai is None else 0
    return gateway.CPUS + own + logical_cpus(recipe.teacher.engine)


def command(words: Sequence[str] | None) -> None:
    """`python -m services.app`. Raises as `serve_locally`."""
    parser = argparse.ArgumentParser(prog="python -m services.app", description="Serve a finished run.")
    parser.add_argument("--run", required=True, help="a finished run: a folder, or s3://bucket/prefix")
    parser.add_argument("--host", help="address to listen on (default: the recipe's)")
    parser.add_argument("--port", type=int, help="port (default: the recipe's)")
    given = parser.parse_args(words)
    serve_locally(given.run, given.host, given.port)


def main() -> None:
    """`python -m services.app`: a user's mistake is one sentence and exit status 2."""
    run_command(command, "the endpoint")


if __name__ == "__main__":
    main()
