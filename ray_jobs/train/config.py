"""What a training's workers are given, and how they begin.

Nothing heavy is imported here: Ray Train's controller, which only passes it on, need not load torch and transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stillhouse.recipe import Recipe
from stillhouse.run import Run, Step


@dataclass(frozen=True)
class Config:
    """What every worker is given.

    Attributes:
        recipe: whose student is trained.
        name: of the training: a digest of what the model is made from.
        card: makes the model's card of its scores on the validation split and of what was counted.
        step: the folder of the run that the model goes to.
        dataset: the folder of the run that holds the splits.
        board: a `ray.util.queue.Queue` that takes what the driver tells the user.
    """

    recipe: Recipe
    run: Run
    name: str
    card: Callable[[Mapping[str, float], Mapping[str, float]], str]
    step: Step = "student"
    dataset: str = "dataset"
    board: Any = None


def train_worker(given: dict[str, Config]) -> dict[str, float]:
    """Train from the last checkpoint, if there is one; worker 0 writes the student.

    Returns:
        What goes into the student's manifest: steps, the teacher's captured mass, scores on the validation split.
    """
    from ray_jobs.train.loop import Training

    return Training(given["config"]).run()
