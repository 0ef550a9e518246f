"""The answers of a student that lies at an endpoint, asked as the gateway will ask it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ray_jobs.progress import Progress, say
from stillhouse.endpoint.chat import ChatAnswer, ChatModel, Silent
from stillhouse.endpoint.client import Loop
from stillhouse.endpoint.errors import Refused, Unanswered, Unsupported
from stillhouse.endpoint.student import RemoteStudent, chat_model
from stillhouse.errors import UserError
from stillhouse.metrics import Prediction
from stillhouse.recipe import Recipe
from stillhouse.report.speed import Speed, speed
from stillhouse.task import answer, render, sampling
from stillhouse.timed import Timed

BATCH = 100
"""Records that are asked together: enough to fill the endpoint, few enough to show progress."""

Row = Mapping[str, Any]


def remote_predictions(
    recipe: Recipe, student: RemoteStudent, rows: Mapping[str, Sequence[Row]]
) -> tuple[dict[str, list[Prediction]], list[str], Speed | None]:
    """The student's answers beside the teacher's, for every split in `rows`; remarks, one sentence each; and how fast.

    None has a confidence yet. An answer that the endpoint refuses to give, that breaks the contract or that comes
    without logprobs will have one of 0: in the cascade the teacher answers there.

    Raises:
        UserError: the endpoint cannot be asked, tells no logprobs, or left too many questions without an answer.
    """
    say("evaluate", f"asks {student.model} at {student.url}")
    model = chat_model(student, recipe)
    asking = _Asking(recipe, model)
    progress = Progress("evaluate", sum(map(len, rows.values())), "records")
    loop = Loop()
    predictions: dict[str, list[Prediction]] = {}
    for split, records in rows.items():
        predictions[split] = []
        for start in range(0, len(records), BATCH):
            batch = records[start : start + BATCH]
            predictions[split] += loop.run(asking.batch(batch))
            progress.add(len(batch))
    asking.check(sum(map(len, rows.values())))
    took = [Timed(seconds) for seconds in model.endpoint.took]
    at_once = min(model.endpoint.settings.max_concurrency, BATCH)
    return predictions, asking.remarks(), speed(f"{student.model} at {student.url}", took, at_once=at_once)


class _Asking:
    """Asks, and counts what did not become an answer."""

    def __init__(self, recipe: Recipe, model: ChatModel) -> None:
        self._recipe, self._model = recipe, model
        self._parameters = sampling(recipe.task)
        self._answered = self._sure = self._outside = 0
        self._refused: list[str] = []
        self._unanswered: list[str] = []

    async def batch(self, rows: Sequence[Row]) -> list[Prediction]:
        """A prediction a row. Raises `UserError` where there is no use in asking on."""
        tasks = [asyncio.create_task(self._predicted(row)) for row in rows]
        try:
            found = await asyncio.gather(*tasks)
        except BaseException as error:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if isinstance(error, Unsupported):
                raise UserError(str(error)) from error
            raise
        if self._answered and not self._sure:
            raise Silent(
                f"no answer of {self._model.model} at {self._model.endpoint.url} has logprobs, so that none has a"
                " confidence, and nothing can be promised of its answers: take a model and an endpoint that tell them"
            )
        return found

    def check(self, records: int) -> None:
        """Raises `UserError` where nothing was answered, or too little to judge the student by."""
        if not self._answered:
            raise UserError(f"{self._model.model} answered nothing: {[*self._refused, *self._unanswered][0]}")
        lost, most = len(self._unanswered), self._recipe.capture.max_failed
        if lost > most * records:
            raise UserError(
                f"{lost} of {records} questions went without an answer (`capture.max_failed` is {most:.1%}):"
                f" {self._unanswered[0]}"
            )

    def remarks(self) -> list[str]:
        """What a reader of the report has to know."""
        counts = {
            "were refused by the endpoint": len(self._refused),
            "went without an answer": len(self._unanswered),
            "were answered outside the task's contract": self._outside,
            "were answered without logprobs": self._answered - self._sure,
        }
        told = [
            f"{count} questions to the student {what}: there the teacher answers." for what, count in counts.items()
        ]
        said = [text for text, count in zip(told, counts.values(), strict=True) if count]
        return ["The student lies at an endpoint, which alone knows its weights.", *said]

    async def _predicted(self, row: Row) -> Prediction:
        prompt = render(self._recipe.task, json.loads(row["fields"]))
        drawn = {**self._parameters, **({"seed": self._recipe.seed} if self._parameters["temperature"] else {})}
        found: ChatAnswer | None = None
        try:
            found = await self._model.ask(prompt, drawn)
        except Unsupported:
            raise
        except Unanswered as error:
            self._unanswered.append(str(error))
        except Refused as error:
            self._refused.append(str(error))
        return self._prediction(row, found)

    def _prediction(self, row: Row, found: ChatAnswer | None) -> Prediction:
        said = answer(self._recipe.task, found.text) if found is not None else None
        evidence = found.evidence if found is not None else None
        self._answered += found is not None
        self._sure += evidence is not None
        self._outside += found is not None and said is None
        return Prediction(
            id=row["id"],
            text="\n".join(json.loads(row["fields"]).values()),
            gold=row["gold"],
            teacher=row["answer"],
            student=said,
            confidence=0.0,
            teacher_prompt_tokens=len(row["prompt_token_ids"]),
            teacher_completion_tokens=len(row["completion_token_ids"]),
            student_prompt_tokens=found.prompt_tokens if found else 0,
            student_completion_tokens=found.completion_tokens if found else 0,
            evidence=evidence,
        )
