"""Finished runs for the tests, made through the real `Run`."""

import time
from pathlib import Path

from recipes import policy, recipe

from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.task import task_hash


def finished_run(folder: Path, student: Path, *, threshold: float | None, made_with: Recipe | None = None) -> Run:
    """A run that holds the files of `student`, and a policy that was calibrated for them."""
    made = made_with or recipe()
    run = Run.open(str(folder))
    run.begin(made)
    run.storage.upload(student, "student")
    manifest = run.commit("student", recipe=made, inputs={}, began=time.monotonic())
    found = policy(threshold, student_hash=manifest.content_hash(), task_hash=task_hash(made.task))
    run.storage.write("evaluation/policy.json", found.save())
    run.commit("evaluation", recipe=made, inputs={}, began=time.monotonic())
    return run
