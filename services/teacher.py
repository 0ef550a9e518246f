"""The teacher's deployment, beside a student or served alone.

Alone it is an OpenAI-compatible endpoint that a capture can ask (`teacher.url`, with `api: vllm`). On a cluster Serve
takes it by its import path, `services.teacher:build` with the argument `recipe`; on a laptop
`python -m services.teacher --recipe PATH` serves the same application on an embedded Ray.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray.serve.deployment import Application

from services.arguments import parsed
from services.command import require_free, run_command, tell
from services.gateway.responses import names
from services.local import serve_until_interrupted
from stillhouse import models
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import load_recipe
from stillhouse.run import Run
from stillhouse.teachers import tuned

NAME = "stillhouse-teacher"
"""The Serve application's name where the teacher is served alone."""

USUAL_LOGPROBS = 20
"""As many logprobs as OpenAI's API gives; a client may ask for them whatever the recipe captures."""


class Arguments(BaseModel):
    """What the application is built from."""

    model_config = ConfigDict(extra="forbid")

    recipe: str = Field(min_length=1, description="Path of a recipe whose teacher has weights.")
    run: str | None = Field(
        default=None, min_length=1, description="For a teacher that is tuned first: the run that holds it."
    )


def teacher(recipe: Recipe, model_id: str) -> Application:
    """The recipe's teacher behind vLLM; a GGUF file is converted on the node where the engine starts."""
    # Imported here, since vLLM takes ten seconds.
    from services.vllm_server import deployment

    locate = partial(models.resolve, recipe.teacher.model)
    most = max(USUAL_LOGPROBS, recipe.capture.top_k)
    return deployment("teacher", model_id, recipe.teacher.engine, recipe.task, locate, max_logprobs=most)


def require_weights(recipe: Recipe) -> None:
    """Raises `UserError` for a teacher that is somebody else's endpoint."""
    if recipe.teacher.url is not None:
        raise UserError(
            f"the teacher {recipe.teacher.model!r} is served at {recipe.teacher.url} already, and only a teacher with"
            " weights can be served from here"
        )


def build(args: dict[str, Any]) -> Application:
    """The Serve application of a teacher alone, behind Ray Serve LLM's own OpenAI endpoint.

    Raises:
        UserError: the arguments or the recipe are wrong, or the teacher has no weights.
    """
    given = parsed(Arguments, args)
    return _alone(served(load_recipe(given.recipe), given.run))


def served(recipe: Recipe, run: str | None) -> Recipe:
    """The recipe with the weights that are served: those of the run, where the teacher is tuned first.

    Raises:
        UserError: there is no such run, or it has not tuned the teacher yet.
    """
    if recipe.teacher.tune is None:
        return recipe
    if run is None:
        raise UserError(
            f"the teacher {recipe.teacher.model!r} is tuned first (`teacher.tune`): name the run that holds it"
        )
    return tuned(recipe, Run.open(run))


def _alone(recipe: Recipe) -> Application:
    require_weights(recipe)
    from services.vllm_server import openai_ingress

    model_id = names(recipe.name)[2]
    return openai_ingress(model_id, teacher(recipe, model_id))


def serve_locally(recipe: Recipe, run: str | None, host: str | None, port: int | None) -> None:
    """Serve a recipe's teacher on an embedded Ray, until SIGINT or SIGTERM; of a run, where it is tuned first.

    Raises:
        UserError: the teacher cannot be served, or the port is taken.
        RuntimeError: the engine does not start.
    """
    began = time.monotonic()
    host = host or recipe.serving.host
    port = recipe.serving.port if port is None else port
    require_free(host, port)
    require_weights(recipe)
    recipe = served(recipe, run)
    models.resolve(recipe.teacher.model)
    tell(f"starts the teacher {recipe.teacher.model}")

    def ready() -> str:
        took = time.monotonic() - began
        return f"ready after {took:.0f} s: http://{host}:{port}/v1 ({names(recipe.name)[2]}); Ctrl-C ends it"

    serve_until_interrupted(
        lambda: _alone(recipe), name=NAME, cpus=lambda: _cpus(recipe), host=host, port=port, ready=ready
    )


def _cpus(recipe: Recipe) -> int:
    from services.vllm_server import INGRESS_CPUS, logical_cpus

    return INGRESS_CPUS + logical_cpus(recipe.teacher.engine)


def command(words: Sequence[str] | None) -> None:
    """`python -m services.teacher`. Raises as `serve_locally`."""
    parser = argparse.ArgumentParser(prog="python -m services.teacher", description="Serve a recipe's teacher alone.")
    parser.add_argument("--recipe", required=True, help="a recipe whose teacher has weights")
    parser.add_argument("--run", help="for a teacher that is tuned first: the run that holds it")
    parser.add_argument("--host", help="address to listen on (default: the recipe's)")
    parser.add_argument("--port", type=int, help="port (default: the recipe's)")
    given = parser.parse_args(words)
    serve_locally(load_recipe(given.recipe), given.run, given.host, given.port)


def main() -> None:
    """`python -m services.teacher`: a user's mistake is one sentence and exit status 2."""
    run_command(command, "the teacher")


if __name__ == "__main__":
    main()
