"""The words every job takes: `python -m ray_jobs.STEP --recipe PATH --run URI`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray_jobs.cluster import connected
from stillhouse.errors import USER_ERROR_EXIT_CODE, UserError
from stillhouse.interrupt import interruptible
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import load_recipe
from stillhouse.run import Run


def main(step: str, job: Callable[[Recipe, Run], None]) -> None:
    """Parse the words, join Ray, do `job`; a user's mistake is one sentence and exit status 2."""
    parser = parser_of(step, sys.modules[job.__module__].__doc__)
    parser.add_argument("--run", required=True, help="the run: a folder, or s3://bucket/prefix")
    words = parser.parse_args()
    with ending("what was finished is kept, and the same command goes on from there"):
        recipe = load_recipe(words.recipe)
        run = Run.open(words.run)
        run.begin(recipe)
        with connected():
            job(recipe, run)


def parser_of(step: str, description: str | None) -> argparse.ArgumentParser:
    """The words of a job that is about a recipe."""
    parser = argparse.ArgumentParser(prog=f"python -m ray_jobs.{step}", description=description)
    parser.add_argument("--recipe", required=True, help="the recipe's YAML file")
    return parser


@contextmanager
def ending(stopped: str) -> Iterator[None]:
    """How every job ends: with status 2 and one sentence after a user's mistake, with 130 after Ctrl-C or SIGTERM.

    Args:
        stopped: what is to be said then of the work.
    """
    with interruptible():
        try:
            yield
        except UserError as error:
            # One that was raised on a worker is wrapped by Ray, and tells of itself with a traceback.
            print(f"error: {getattr(error, 'cause', error)}", file=sys.stderr)
            sys.exit(USER_ERROR_EXIT_CODE)
        except KeyboardInterrupt:
            print(f"stopped: {stopped}", file=sys.stderr)
            sys.exit(130)
