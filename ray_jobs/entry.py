"""The words every job takes: `python -m ray_jobs.STEP --recipe PATH --run URI`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from types import FrameType

from ray_jobs.cluster import connected
from stillhouse.errors import USER_ERROR_EXIT_CODE, UserError
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import load_recipe
from stillhouse.run import Run


def main(step: str, job: Callable[[Recipe, Run], None]) -> None:
    """Parse the words, join Ray, do `job`; a user's mistake is one sentence and exit status 2."""
    parser = argparse.ArgumentParser(prog=f"python -m ray_jobs.{step}", description=sys.modules[job.__module__].__doc__)
    parser.add_argument("--recipe", required=True, help="the recipe's YAML file")
    parser.add_argument("--run", required=True, help="the run: a folder, or s3://bucket/prefix")
    words = parser.parse_args()
    # `kubectl delete` and `docker stop` send SIGTERM: end as Ctrl-C does, with Ray shut down.
    # And a shell's background job begins with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        recipe = load_recipe(words.recipe)
        run = Run.open(words.run)
        run.begin(recipe)
        with connected():
            job(recipe, run)
    except UserError as error:
        # One that was raised on a worker is wrapped by Ray, and tells of itself with a traceback.
        print(f"error: {getattr(error, 'cause', error)}", file=sys.stderr)
        sys.exit(USER_ERROR_EXIT_CODE)
    except KeyboardInterrupt:
        print("stopped: what was finished is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
