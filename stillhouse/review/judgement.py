"""A judgement: what one person says of one completion."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stillhouse.errors import UserError
from stillhouse.recipe import Recipe, Task
from stillhouse.review.sample import Item
from stillhouse.task import answer

Verdict = Literal["accept", "correct", "reject"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

LONGEST_NAME = 64
"""Of a reviewer, in characters."""


class Judgement(BaseModel):
    """What a reviewer says of a completion; a later one on the same completion takes its place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="The record's.")
    content: str = Field(description="Hash of the prompt and the completion that were judged.")
    reviewer: str
    verdict: Verdict | None = Field(description="None takes back what this reviewer said before.")
    correction: str | None = Field(default=None, description="The right answer, for `correct`.")
    at: datetime

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.verdict == "correct") != (self.correction is not None):
            raise ValueError("a correction goes with the verdict `correct`, which needs it")
        return self


def judgement(recipe: Recipe, item: Item, reviewer: str, verdict: Verdict | None, correction: str | None) -> Judgement:
    """A judgement of now. Raises `UserError` for a correction that the task does not allow."""
    return Judgement(
        id=item.id,
        content=item.content,
        reviewer=reviewer,
        verdict=verdict,
        correction=checked_correction(recipe, item, correction) if verdict == "correct" else None,
        at=datetime.now(UTC),
    )


def checked_name(name: str) -> str:
    """A reviewer's name with its spaces put right.

    Raises:
        UserError: it is empty, too long, or holds characters that cannot be printed.
    """
    found = " ".join(name.split())
    if not found or len(found) > LONGEST_NAME or not found.isprintable():
        raise UserError(f"a reviewer's name has 1 to {LONGEST_NAME} printable characters")
    return found


def checked_correction(recipe: Recipe, item: Item, text: str | None) -> str:
    """A correction as it is kept: a choice, a JSON object in the order in which it was written, or a text.

    Raises:
        UserError: it is none that the task allows, or the teacher's own answer.
    """
    task, text = recipe.task, (text or "").strip()
    if not text:
        raise UserError("the correction is empty")
    if task.kind == "choices":
        text = recipe.data.labels.get(text, text).strip()
        if answer(task, text) is None:
            allowed = ", ".join(repr(choice.strip()) for choice in task.choices)
            raise UserError(f"the correction {text!r} is none of the choices {allowed}")
    elif task.kind == "json":
        text = _checked_json(task, text)
    if answer(task, text) == answer(task, item.completion):
        raise UserError("the correction is the teacher's own answer: accept it instead")
    return text


def _checked_json(task: Task, text: str) -> str:
    import jsonschema

    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the correction is not JSON: {error}") from error
    if answer(task, text) is None:
        found = jsonschema.validators.validator_for(task.json_schema or {})(task.json_schema or {})
        problem = jsonschema.exceptions.best_match(found.iter_errors(value))
        why = f": {problem.json_path}: {problem.message}" if problem is not None else ", or is no plain JSON"
        raise UserError(f"the correction does not satisfy `task.json_schema`{why}")
    return json.dumps(value, ensure_ascii=False)


def standing(judgements: Iterable[Judgement]) -> dict[tuple[str, str], dict[str, Judgement]]:
    """What counts of all that was said: by (record, content), the last judgement of each reviewer."""
    found: dict[tuple[str, str], dict[str, Judgement]] = {}
    for each in sorted(judgements, key=lambda judgement: judgement.at):
        found.setdefault((each.id, each.content), {})[each.reviewer] = each
    for reviewers in found.values():
        for name in [name for name, each in reviewers.items() if each.verdict is None]:
            del reviewers[name]
    return {key: reviewers for key, reviewers in found.items() if reviewers}
