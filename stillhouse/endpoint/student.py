"""A student that lies at an endpoint: what a run keeps of it, in place of weights."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillhouse.endpoint.chat import ChatModel
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run

MODEL = "student/model.json"

SECTION = "student.openai"

LIVE_ATTEMPTS, LIVE_PATIENCE_S = 2, 1.0
"""How often one question is asked, and the longest `Retry-After` that is waited for, while somebody waits."""


class RemoteStudent(BaseModel):
    """`student/model.json`; its hash stands for the weights that nobody here can see."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1, description="The endpoint's name of the fine-tuned model.")
    url: str = Field(description="Base address of the endpoint.")
    job: str = Field(description="The fine-tuning job that made it.")
    openai: dict[str, Any] = Field(description="What it was made by: the recipe's `student.openai`.")


def remote_student(recipe: Recipe, run: Run) -> RemoteStudent | None:
    """The run's student, if it lies at an endpoint; None for weights.

    Raises:
        UserError: the run's student is of the other kind than the recipe's, or from another endpoint.
    """
    try:
        found = RemoteStudent.model_validate_json(run.storage.read(MODEL))
    except KeyError:
        if recipe.student.openai is not None:
            raise UserError(
                f"the student of {run.uri} was trained here, and the recipe's is `{SECTION}`: train again"
            ) from None
        return None
    except ValidationError as error:
        raise UserError(f"{run.uri}/{MODEL} is damaged: train again") from error
    if recipe.student.openai is None:
        raise UserError(
            f"the student of {run.uri} is {found.model} at {found.url}, and the recipe has no `{SECTION}`: train again"
        )
    if recipe.student.openai.url != found.url:
        raise UserError(
            f"the student {found.model} is at {found.url}, and `{SECTION}.url` says {recipe.student.openai.url}"
        )
    return found


def chat_model(found: RemoteStudent, recipe: Recipe, *, live: bool = False) -> ChatModel:
    """The student, ready to be asked.

    Args:
        live: somebody waits for the answer, and the teacher stands by: few attempts, and no long waits.

    Raises:
        UserError: its key is not in the environment.
    """
    settings = recipe.student.openai
    assert settings is not None
    if not live:
        return ChatModel(settings, found.url, section=SECTION, model=found.model, task=recipe.task)
    settings = settings.model_copy(update={"max_attempts": min(settings.max_attempts, LIVE_ATTEMPTS)})
    return ChatModel(
        settings, found.url, section=SECTION, model=found.model, task=recipe.task, patience_s=LIVE_PATIENCE_S
    )
