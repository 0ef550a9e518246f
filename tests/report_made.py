"""Reports of every kind of task, from answers that are drawn with known rates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from stillhouse.calibration import calibrate
from stillhouse.confidence import Evidence
from stillhouse.metrics import Prediction
from stillhouse.recipe import Recipe
from stillhouse.report import Lineage, Report, build_report
from stillhouse.report.baselines import TrainSplit
from stillhouse.report.drift import drift_baseline
from stillhouse.report.speed import beside_teacher, speed
from stillhouse.timed import Timed

LABELS = ["good", "bad", "mixed"]
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "tags": {"type": "array"}}}
LINEAGE = Lineage(
    created="2026-01-02T03:04:05+00:00",
    seed=7,
    hashes={"student": "a" * 64},
    versions={"stillhouse": "0.1.0"},
    commands=["stillhouse run recipe.yaml"],
)
_TASKS: dict[str, dict[str, Any]] = {
    "choices": {"choices": [f" {label}" for label in LABELS]},
    "json": {"json_schema": SCHEMA},
    "text": {},
}


def recipe_of(kind: str, **changes: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "reviews",
            "task": {"kind": kind, "prompt": "Review: {text}\nAnswer:", **_TASKS[kind]},
            "data": {"path": "data.jsonl", "label": "label"},
            "teacher": {"model": "big"},
            "evaluation": {"alpha": 0.2, "delta": 0.05, "score": "sequence_probability"},
            "prices": {"teacher_input": 10, "teacher_output": 30, "student_input": 1, "student_output": 3},
            **changes,
        }
    )


def text_of(gold: str, rng: np.random.Generator) -> str:
    """A text that tells its label in half of the cases."""
    words = [f"w{i}" for i in rng.integers(0, 300, 12)]
    return " ".join([gold if rng.random() < 0.5 else "so", *words])


def said(kind: str, label: str, rng: np.random.Generator) -> str:
    """The answer that stands for a label, in graded form."""
    if kind == "choices":
        return label
    if kind == "json":
        tags = ["x", "y"] if label == "good" else ["z"]
        return json.dumps({"name": label, "tags": tags}, sort_keys=True, separators=(",", ":"))
    return f"The film is {label}, and that is all there is to say about it."


def drawn(
    kind: str,
    n: int,
    *,
    seed: int = 0,
    teacher: float = 0.9,
    student: float = 0.8,
    gold: bool = True,
    prefix: str = "r",
) -> list[Prediction]:
    """Records that teacher and student have right with these rates; a right student is surer."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        truth = LABELS[rng.integers(3)]
        others = [label for label in LABELS if label != truth]
        of_teacher = truth if rng.random() < teacher else others[rng.integers(2)]
        own = of_teacher if rng.random() < student else LABELS[rng.integers(3)]
        sure = 0.55 + 0.45 * rng.random() if own == of_teacher else 0.9 * rng.random()
        answered = None if rng.random() < 0.01 else said(kind, own, rng)
        found.append(
            Prediction(
                id=f"{prefix}{i}",
                text=text_of(truth, rng),
                gold=said(kind, truth, rng) if gold else None,
                teacher=said(kind, of_teacher, rng),
                student=answered,
                confidence=0.0 if answered is None else float(sure),
                teacher_prompt_tokens=int(rng.integers(20, 60)),
                teacher_completion_tokens=10,
                student_prompt_tokens=int(rng.integers(20, 60)),
                student_completion_tokens=5,
                evidence=Evidence.of([float(np.log(sure))]),
            )
        )
    return found


def train_split(n: int = 200, *, gold: bool = True, seed: int = 9) -> TrainSplit:
    records = drawn("choices", n, seed=seed, gold=gold, prefix="t")
    return TrainSplit([p.text for p in records], [p.teacher for p in records], [p.gold for p in records])


def letters(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors of the letters' counts: quick, and alike for texts that are."""
    counts = np.array([[text.count(chr(97 + i)) for i in range(26)] for text in texts], dtype=np.float64) + 1e-3
    unit: np.ndarray = (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)
    return unit


def made(
    kind: str = "choices", *, n: int = 300, gold: bool = True, recipe: Recipe | None = None, **rates: Any
) -> Report:
    """A whole report, from its calibration on."""
    recipe = recipe or recipe_of(kind)
    calibrated = calibrate(drawn(kind, 400, seed=1, gold=gold, **rates), recipe)
    test = drawn(kind, n, seed=2, gold=gold, **rates)
    labels = [choice.strip() for choice in recipe.task.choices]
    drift, _ = drift_baseline(test, calibrated.calibration.threshold, labels=labels, embed=letters, seed=0)
    single = [Timed(0.03 + i / 1000, 5) for i in range(50)]
    return build_report(
        test,
        calibrated,
        recipe,
        run="runs/reviews",
        funnel={"captured": 1500, "train": 800, "test": n},
        lineage=LINEAGE,
        train=train_split(gold=gold),
        embed=letters if kind == "text" else None,
        speed=beside_teacher(
            speed("4 cores of a test", single, at_once=1, batch=Timed(2.0, 5 * n), records=n), Timed(20.0, 4_000)
        ),
        drift=drift,
    )
