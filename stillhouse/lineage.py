"""What each step depends on, as hashes: the one answer to "is it up to date?" for the jobs and for `status`."""

from __future__ import annotations

from stillhouse import models
from stillhouse.data import data_hash
from stillhouse.recipe import Recipe
from stillhouse.run import STEPS, Run, Status, Step, digest
from stillhouse.task import task_hash

_ENGINE_FIELDS = {"dtype", "max_model_len"}
"""The engine's settings that change what it answers; the others change only how fast it does."""


def inputs(step: Step, recipe: Recipe, run: Run) -> dict[str, str]:
    """The hashes of everything that `step` would be made from now, by name.

    An earlier step that has not finished counts as "missing", so that what was made from an older one shows as stale.

    Raises:
        UserError: the data or a model cannot be read.
    """
    if step == "capture":
        return {
            "task": task_hash(recipe.task),
            "data": data_hash(recipe),
            "teacher": models.fingerprint(recipe.teacher.model),
            "teacher.engine": digest(recipe.teacher.engine.model_dump(mode="json", include=_ENGINE_FIELDS)),
            "capture": digest(recipe.capture.model_dump(mode="json", exclude={"actors"})),
            "seed": str(recipe.seed),
        }
    if step == "dataset":
        return {
            "capture": _content(run, "capture"),
            "task": task_hash(recipe.task),
            "curation": digest(recipe.curation.model_dump(mode="json")),
            "seed": str(recipe.seed),
        }
    if step == "student":
        init = recipe.student.init.model
        return {
            "dataset": _content(run, "dataset"),
            "student": digest(recipe.student.model_dump(mode="json", exclude={"engine", "device", "checkpoint_every"})),
            "student.init": models.fingerprint(init) if init else "the teacher",
            "teacher": models.fingerprint(recipe.teacher.model),
            "seed": str(recipe.seed),
        }
    return {
        "dataset": _content(run, "dataset"),
        "student": _content(run, "student"),
        "task": task_hash(recipe.task),
        "student.engine": digest(recipe.student.engine.model_dump(mode="json", include=_ENGINE_FIELDS)),
        "evaluation": digest(recipe.evaluation.model_dump(mode="json")),
        "prices": digest(recipe.prices.model_dump(mode="json")),
        "seed": str(recipe.seed),
    }


def statuses(recipe: Recipe, run: Run) -> list[Status]:
    """The state of every step, in order; a step after one that is not done is stale too."""
    found: list[Status] = []
    broken: Step | None = None
    for step in STEPS:
        status = run.status(step, inputs(step, recipe, run))
        if broken and status.state == "done":
            status = Status(step, "stale", f"made from an older {broken}", status.manifest)
        if status.state != "done" and broken is None:
            broken = step
        found.append(status)
    return found


def _content(run: Run, step: Step) -> str:
    manifest = run.manifest(step)
    return manifest.content_hash() if manifest else "missing"
