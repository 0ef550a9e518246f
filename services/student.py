"""The student, deployed or at its endpoint, and the check that the policy was calibrated for it."""

from __future__ import annotations

from functools import partial

from ray.serve.deployment import Application

from stillhouse.endpoint.student import RemoteStudent, remote_student
from stillhouse.errors import UserError
from stillhouse.policy import Policy
from stillhouse.recipe import Recipe
from stillhouse.run import Run, file_sha256
from stillhouse.task import task_hash


def student(recipe: Recipe, model_id: str, run: Run) -> Application | RemoteStudent:
    """The run's student behind vLLM; one at an endpoint is where it is."""
    if (remote := remote_student(recipe, run)) is not None:
        return remote
    # Imported here, since vLLM takes ten seconds, and `policy` has to answer at once.
    from services.vllm_server import deployment

    return deployment("student", model_id, recipe.student.engine, recipe.task, partial(locate, run.uri))


def locate(run_uri: str) -> str:
    """A local folder with the student's files.

    Raises:
        UserError: a file is not what the student's manifest says.
    """
    run = Run.open(run_uri)
    manifest = run.finished("student", "train")
    folder = run.fetch("student")
    for entry in manifest.files:
        path = folder / entry.path
        if not path.is_file() or file_sha256(path) != entry.sha256:
            raise UserError(f"{path} changed since the student was trained: train and evaluate it again")
    return str(folder)


def policy(run: Run, recipe: Recipe) -> Policy:
    """The policy of the run's evaluation.

    Raises:
        UserError: there is none, or it was calibrated for another student or task.
    """
    manifest = run.finished("student", "train")
    run.finished("evaluation", "evaluate")
    name = "evaluation/policy.json"
    remote = remote_student(recipe, run)
    try:
        found = Policy.load(run.storage.read(name), source=f"{run.uri}/{name}")
        # The student's hash covers its tokenizer's files.
        found.check(
            student_hash=manifest.content_hash(),
            tokenizer_hash=found.tokenizer_hash,
            task_hash=task_hash(recipe.task),
            student_model=remote.model if remote is not None else None,
        )
    except KeyError as error:
        raise UserError(f"{run.uri} has no {name}: run `stillhouse evaluate` first") from error
    except ValueError as error:
        raise UserError(str(error)) from error
    return found
