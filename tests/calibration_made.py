"""Answers with logprobs, and recipes that calibrate on them, for the tests of calibration, policy and report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from stillhouse.confidence import Evidence
from stillhouse.metrics import Prediction
from stillhouse.recipe import Recipe

TEXT = {"kind": "text", "prompt": "Shorten: {text}", "max_tokens": 64}
THREE = {"kind": "choices", "prompt": "{text}", "choices": ["a", "b", "c"]}
TWO = {"kind": "choices", "prompt": "{text}", "choices": ["a", "b"]}


def recipe(task: dict[str, Any] | None = None, **evaluation: Any) -> Recipe:
    """A recipe that is about its evaluation alone."""
    return Recipe.model_validate(
        {
            "name": "made",
            "task": task or TEXT,
            "data": {"path": "data.jsonl"},
            "teacher": {"model": "big"},
            "evaluation": {"alpha": 0.1, "delta": 0.05, **evaluation},
        }
    )


def prediction(
    evidence: Evidence | None, *, right: bool, student: str | None = "yes", gold: str | None = None, id: str = "r"
) -> Prediction:
    """An answer that is the teacher's, or not."""
    return Prediction(
        id=id,
        text="",
        gold=gold,
        teacher="yes" if right else "no",
        student=student,
        confidence=0.0,
        teacher_prompt_tokens=1,
        teacher_completion_tokens=1,
        student_prompt_tokens=1,
        student_completion_tokens=1,
        evidence=evidence,
    )


def sure(probability: float, *, right: bool = True, **options: Any) -> Prediction:
    """An answer of one token with that probability."""
    return prediction(Evidence.of([math.log(probability)]), right=right, **options)


def texts(rng: np.random.Generator, n: int, *, tokens: int = 20) -> list[Prediction]:
    """Texts of 5 to 5 + `tokens` tokens; the mean logprob tells which are right, and the sum does so much less.

    Where a text goes wrong, its first eight tokens are the less likely ones already.
    """
    found = []
    for i in range(n):
        doubt = rng.exponential(0.25)
        length = int(rng.integers(5, 6 + tokens))
        written = -rng.gamma(1.0, doubt, length)
        found.append(prediction(Evidence.of(written.tolist()), right=bool(rng.random() > min(0.95, doubt)), id=f"r{i}"))
    return found


def spread(rng: np.random.Generator, n: int, *, k: int = 4) -> list[Prediction]:
    """Choices among k: the answer is right as often as its probability says."""
    found = []
    for i in range(n):
        probabilities = np.sort(rng.dirichlet(np.full(k, 0.2)))[::-1].clip(1e-6)
        ranked: Sequence[float] = np.log(probabilities / probabilities.sum()).tolist()
        evidence = Evidence.of([ranked[0], 0.0], [ranked, [0.0]])
        found.append(prediction(evidence, right=bool(rng.random() < probabilities[0]), id=f"r{i}"))
    return found
