"""The pipeline: tune, capture, curate, train, evaluate; what is up to date is skipped, what was cut off goes on.

`python -m ray_jobs.pipeline --recipe PATH --run URI`, on a laptop and through `ray job submit` alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ray_jobs.capture.job import capture
from ray_jobs.curate import curate
from ray_jobs.entry import main
from ray_jobs.evaluate import evaluate
from ray_jobs.progress import say
from ray_jobs.train.job import train
from ray_jobs.tune import tune
from stillhouse import lineage
from stillhouse.duration import duration
from stillhouse.recipe import Recipe
from stillhouse.run import Run, Step, steps_of

JOBS: dict[Step, Callable[[Recipe, Run], None]] = {
    "teacher": tune,
    "capture": capture,
    "dataset": curate,
    "student": train,
    "evaluation": evaluate,
}


def pipeline(recipe: Recipe, run: Run) -> None:
    """Bring every step of the recipe up to date."""
    began = time.monotonic()
    for step in steps_of(recipe):
        status = run.status(step, lineage.inputs(step, recipe, run))
        if status.state == "done":
            say(step, "up to date, skipped")
            continue
        if status.state == "stale":
            say(step, f"made again: {status.why}")
        JOBS[step](recipe, run)
    say("pipeline", f"done in {duration(time.monotonic() - began)}: {run.uri}")


if __name__ == "__main__":
    main("pipeline", pipeline)
