"""What the evaluation's engine is timed on: batches first, then requests one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_jobs import evaluate
from ray_jobs.evaluate import StudentWorker
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.signal.schema import Completion


class Clock:
    """Time that passes only in an engine."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Engine:
    """A second for a batch, and a hundredth for each of its prompts; three tokens an answer."""

    clock: Clock

    def __init__(self, *_: Any) -> None:
        self.clock.now += 100.0  # the start, which is no part of any request

    def complete(self, prompts: list[list[int]]) -> list[list[Completion]]:
        self.clock.now += 1 + len(prompts) / 100
        return [[Completion(prompt, "x", [1, 2, 3], "stop", [0.0, 0.0, 0.0], None)] for prompt in prompts]


def test_the_batch_and_single_requests_are_timed_apart(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(Engine, "clock", clock, raising=False)
    monkeypatch.setattr(evaluate, "BatchEngine", Engine)
    monkeypatch.setattr(evaluate.time, "monotonic", clock.monotonic)
    run = Run.open(str(tmp_path / "run"))
    recipe = make_recipe()
    run.begin(recipe)
    run.commit("student", recipe=recipe, inputs={}, began=0.0)
    worker = StudentWorker(run, recipe.student.engine, recipe.task, 0)
    assert len(worker.complete([[0]] * 100)) == 100
    worker.complete([[0]] * 50)
    found = worker.speed([[0]] * 20)
    assert found is not None
    assert found.where.startswith(f"{len(os.sched_getaffinity(0))} core")
    assert (found.requests, found.at_once) == (20, 1)
    assert (found.p50_s, found.p95_s) == pytest.approx((1.01, 1.01))
    assert found.tokens_per_s == pytest.approx(3 / 1.01)
    assert found.batch_tokens_per_s == pytest.approx(450 / 3.5)
    assert found.batch_records_per_s == pytest.approx(150 / 3.5)
