"""A teacher whose answers are a function of the question alone, and a capture that asks it in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ray_jobs.capture import job, worker
from ray_jobs.capture.plan import Plan
from ray_jobs.capture.teacher import Answer, Failure, Identity, Question
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.signal.schema import Completion
from stillhouse.signal.sparse import SparseSignal

IDENTITY = Identity("teacher", "tokens", "template", "scripted 1", "float32")


@dataclass
class ScriptedTeacher:
    """Says " positive" with a probability that hangs on the question; fails at ids in `fails`."""

    identity: Identity = IDENTITY
    says: str = " positive"
    n: int = 1
    fails: set[str] = field(default_factory=set)
    asked: list[Question] = field(default_factory=list)

    def answer(self, part: int, questions: Sequence[Question]) -> list[Answer]:
        self.asked += questions
        return [self._one(question) for question in questions]

    def _one(self, question: Question) -> Answer:
        if question.id in self.fails:
            return Failure(f"no answer to {question.id}")
        share = 0.5 + (question.seed % 1000) / 2500
        logprobs = np.log([share, 1 - share])
        signal = SparseSignal.of([[5, 6], [0]], [logprobs.tolist(), [0.0]])
        ids = question.completion if isinstance(question.completion, list) else [5, 0]
        text = question.completion if isinstance(question.completion, str) else self.says
        told = [float(logprobs[0]), 0.0]
        return [Completion([1, 2], text, ids, "stop", told, signal) for _ in range(self.n)]


def ask_here(monkeypatch: pytest.MonkeyPatch, teachers: dict[str, Any]) -> list[int]:
    """Have captures ask `teachers` in this process, without Ray; returns the parts asked, as they are asked."""
    parts_asked: list[int] = []

    def opened(_recipe: Recipe, _run: Run, name: str) -> Any:
        return teachers[name]

    def answered(recipe: Recipe, run: Run, plan: Plan, name: str, parts: Sequence[int]) -> Iterator[worker.Written]:
        scored = job.scored_by(recipe, name)
        asker = worker.CaptureWorker(recipe, run, plan.made_from, name, scored)
        for part in parts:
            parts_asked.append(part)
            done = asker({"part": np.array([part])})
            yield worker.Written(**{name: value for name, (value,) in done.items()})

    monkeypatch.setattr(worker, "open_teacher", opened)
    monkeypatch.setattr(job, "_answered", answered)
    return parts_asked
