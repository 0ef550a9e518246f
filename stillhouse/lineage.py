"""What each step depends on, as hashes: the one answer to "is it up to date?" for the jobs and for `status`."""

from __future__ import annotations

from stillhouse import models
from stillhouse.curation import user_function
from stillhouse.data import data_hash
from stillhouse.recipe import Recipe, Teacher
from stillhouse.review.journal import judgements
from stillhouse.review.outcome import outcomes, settled
from stillhouse.run import Run, Status, Step, digest, steps_of
from stillhouse.task import task_hash

_ENGINE_FIELDS = {"dtype", "max_model_len", "quantization"}
"""The engine's settings that change what it answers; the others change only how fast it does."""


_CAPTURE_LIMITS = {"engines", "max_failed", "budget"}
"""The capture's settings that say how fast, how far and how patiently it goes, and not what it holds."""

ASKING = {"api_key_env", "max_concurrency", "timeout_s", "max_attempts", "poll_s"}
"""Settings that say how an endpoint is asked, and not what it makes."""


_TRAINING_LIMITS = {
    "engine",
    "device",
    "workers",
    "micro_batch_size",
    "offload",
    "gradient_checkpointing",
    "fused_head",
    "checkpoint_every",
    "checkpoint_minutes",
    "tracking",
}
"""Settings that say where and how fast a model is trained: with others a training may go on."""


def teacher_fingerprint(teacher: Teacher) -> str:
    """sha256 of what answers: the weights, or the endpoint's address and model."""
    if teacher.url is None:
        return models.fingerprint(teacher.model)
    tokenizer = models.fingerprint(teacher.tokenizer) if teacher.tokenizer else ""
    return digest([teacher.url, teacher.api, teacher.model, tokenizer])


def inputs(step: Step, recipe: Recipe, run: Run) -> dict[str, str]:
    """The hashes of everything that `step` would be made from now, by name.

    An earlier step that has not finished counts as "missing", so that what was made from an older one shows as stale.

    Raises:
        UserError: the data, a model or the user's own filter cannot be read.
    """
    if step == "teacher":
        tune = recipe.teacher.tune
        return {
            "task": task_hash(recipe.task),
            "data": data_hash(recipe),
            "teacher": teacher_fingerprint(recipe.teacher),
            "teacher.tune": digest(tune.model_dump(mode="json", exclude=_TRAINING_LIMITS) if tune else None),
            "seed": str(recipe.seed),
        }
    if step == "capture":
        return {
            "task": task_hash(recipe.task),
            "data": data_hash(recipe),
            "teacher": _teacher(recipe, run),
            "teacher.engine": digest(recipe.teacher.engine.model_dump(mode="json", include=_ENGINE_FIELDS)),
            **_of_ensemble(recipe),
            **_of_student(recipe),
            "capture": digest(recipe.capture.model_dump(mode="json", exclude=_CAPTURE_LIMITS)),
            "seed": str(recipe.seed),
        }
    if step == "dataset":
        return {
            "capture": _content(run, "capture"),
            **({"teacher": _content(run, "teacher")} if recipe.teacher.tune else {}),  # what may not be held out
            "task": task_hash(recipe.task),
            "curation": digest(recipe.curation.model_dump(mode="json", exclude={"filters": {"python"}})),
            **_of_function(recipe),
            "seed": str(recipe.seed),
            **_of_review(recipe, run),
        }
    if step == "student" and recipe.student.openai is not None:
        # Prompts are rendered anew for the API, and weights of our own have no part in it.
        return {
            "dataset": _content(run, "dataset"),
            "task": task_hash(recipe.task),
            "student.openai": digest(recipe.student.openai.model_dump(mode="json", exclude=ASKING)),
            "student.ce_on": recipe.student.ce_on,
            "seed": str(recipe.seed),
        }
    if step == "student":
        init = recipe.student.init.model
        return {
            "dataset": _content(run, "dataset"),
            "student": digest(recipe.student.model_dump(mode="json", exclude=_TRAINING_LIMITS)),
            "student.init": models.fingerprint(init) if init else "the teacher",
            "teacher": _teacher(recipe, run),
            "seed": str(recipe.seed),
        }
    return {
        "dataset": _content(run, "dataset"),
        "student": _content(run, "student"),
        "task": task_hash(recipe.task),
        "student.engine": digest(recipe.student.engine.model_dump(mode="json", include=_ENGINE_FIELDS)),
        "evaluation": digest(recipe.evaluation.model_dump(mode="json", exclude={"judge": ASKING})),
        "prices": digest(recipe.prices.model_dump(mode="json")),
        "seed": str(recipe.seed),
    }


def _teacher(recipe: Recipe, run: Run) -> str:
    """What answers: the tuned teacher, if it is tuned, else the recipe's."""
    return _content(run, "teacher") if recipe.teacher.tune else teacher_fingerprint(recipe.teacher)


def _of_ensemble(recipe: Recipe) -> dict[str, str]:
    if recipe.ensemble is None:
        return {}
    members = [
        [
            teacher_fingerprint(member),
            member.engine.model_dump(mode="json", include=_ENGINE_FIELDS),
            member.model_dump(mode="json", include={"name", "weight", "when"}),
        ]
        for member in recipe.ensemble.members
    ]
    return {"ensemble": digest([recipe.ensemble.combine, recipe.ensemble.weight, members])}


def _of_function(recipe: Recipe) -> dict[str, str]:
    """The user's own filter, by its source: where that lies does not matter."""
    spec = recipe.curation.filters.python
    return {"curation.filters.python": user_function.fingerprint(spec)} if spec else {}


def _of_student(recipe: Recipe) -> dict[str, str]:
    """Text alone is stored as the student's tokens, where the student has a tokenizer of its own."""
    init = recipe.student.init.model
    return {"student.tokenizer": models.fingerprint(init)} if recipe.capture.mode == "text" and init else {}


def _of_review(recipe: Recipe, run: Run) -> dict[str, str]:
    """What people say of the completions, once they have said something that counts."""
    found = sorted(
        (*key, each.verdict, each.correction) for key, each in settled(outcomes(recipe.task, judgements(run))).items()
    )
    return {"review": digest(found)} if found else {}


def statuses(recipe: Recipe, run: Run) -> list[Status]:
    """The state of every step, in order; a step after one that is not done is stale too."""
    found: list[Status] = []
    broken: Step | None = None
    for step in steps_of(recipe):
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
