"""The decision: the student answers; where it is not sure enough, the teacher answers from scratch."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import Literal

from services.gateway.engine import Engine, EngineFailed, EngineRefused, Generation, Question, Usage
from stillhouse.policy import Policy
from stillhouse.recipe import Task
from stillhouse.task import answer

logger = logging.getLogger(__name__)

Route = Literal["student", "teacher", "degraded"]
"""Who answered; `degraded` is a student that was not sure enough, and whose teacher did not come."""


class NobodyAnswers(Exception):
    """Every engine that may answer is gone, broken or too slow."""


@dataclass(frozen=True)
class Decision:
    """The answer that goes out.

    Attributes:
        confidence: the student's in its own answer, in [0, 1]; None where it gave none.
        usage: what student and teacher spent together.
        why: a few words for the log.
    """

    route: Route
    generation: Generation
    confidence: float | None
    usage: Usage
    why: str


class Cascade:
    """Student first, teacher by confidence.

    Args:
        timeout_s: longest wait for one engine, in seconds.
    """

    def __init__(self, student: Engine, teacher: Engine, *, task: Task, policy: Policy, timeout_s: float) -> None:
        self._student = student
        self._teacher = teacher
        self._task = task
        self._policy = policy
        self._timeout_s = timeout_s

    async def decide(self, question: Question, only: Literal["student", "teacher"] | None = None) -> Decision:
        """Answer a question; `only` fixes the route.

        Raises:
            EngineRefused: the client has to mend the request.
            NobodyAnswers: no engine that may answer can.
        """
        if only == "teacher":
            return await self._alone("teacher", self._teacher, question)
        if only == "student":
            return await self._alone("student", self._student, self._judged(question))
        try:
            student = await self._ask("student", self._student, self._judged(question))
        except (EngineFailed, EngineRefused) as error:
            return await self._without_student(question, error)
        confidence = self._confidence(student)
        if confidence is None:
            doubt = "the student's answer came without usable logprobs"
        elif answer(self._task, student.text) is None:
            doubt = "the student's answer breaks the task's contract"
        elif not question.calibrated:
            doubt = "the client's sampling is not what the policy was calibrated with"
        elif not self._policy.accepts(confidence):
            doubt = "the student is not sure enough"
        else:
            return Decision("student", student, confidence, student.usage, "the student is sure enough")
        try:
            teacher = await self._ask("teacher", self._teacher, question)
        except (EngineFailed, EngineRefused) as error:
            logger.warning("degraded: %s, and the teacher does not answer: %s", doubt, error)
            return Decision("degraded", student, confidence, student.usage, f"{doubt}; {error}")
        return Decision("teacher", teacher, confidence, student.usage + teacher.usage, doubt)

    async def ready(self) -> dict[str, bool]:
        """Which engines can answer now, by name."""
        student, teacher = await asyncio.gather(self._student.healthy(), self._teacher.healthy())
        return {"student": student, "teacher": teacher}

    async def _alone(self, name: Literal["student", "teacher"], engine: Engine, question: Question) -> Decision:
        try:
            found = await self._ask(name, engine, question)
        except EngineFailed as error:
            raise NobodyAnswers(str(error)) from error
        confidence = self._confidence(found) if name == "student" else None
        return Decision(name, found, confidence, found.usage, "asked for by name")

    async def _without_student(self, question: Question, why: EngineFailed | EngineRefused) -> Decision:
        logger.warning("the student does not answer: %s", why)
        try:
            teacher = await self._ask("teacher", self._teacher, question)
        except EngineFailed as error:
            raise NobodyAnswers(f"{why}; {error}") from error
        return Decision("teacher", teacher, None, teacher.usage, f"the student does not answer: {why}")

    async def _ask(self, name: str, engine: Engine, question: Question) -> Generation:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await engine.ask(question)
        except TimeoutError as error:
            raise EngineFailed(f"the {name} did not answer within {self._timeout_s:g} s") from error

    def _judged(self, question: Question) -> Question:
        """As the student is asked it: with as many of the likeliest tokens as its score is made from."""
        return replace(question, top_logprobs=max(question.top_logprobs, self._policy.alternatives))

    def _confidence(self, found: Generation) -> float | None:
        """The student's confidence; None where logprobs are missing or broken, which must never pass for certainty."""
        told, billed = len(found.tokens), found.usage.completion_tokens
        if told != billed and not found.spelled:
            logger.warning("no confidence: %d logprobs for %d tokens", told, billed)
            return None
        try:
            return self._policy.confidence(found.evidence(self._policy.alternatives))
        except (ValueError, TypeError) as error:
            logger.warning("no confidence: %s", error)
            return None
