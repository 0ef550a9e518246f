"""Runs for the tests of the review: a dataset of every kind of task, with confidences, made through the real schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from datasets_made import commit_dataset

from stillhouse.data import Record
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.signal.schema import Completion, to_row

MakeRecipe = Callable[..., Recipe]

JSON_TASK = {
    "task.kind": "json",
    "task.choices": [],
    "task.json_schema": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name"],
    },
    "data.label": None,
}
TEXT_TASK = {"task.kind": "text", "task.choices": [], "data.label": None}

SHARES = {"train": 0.7, "validation": 0.1, "calibration": 0.1, "test": 0.1}


def record(i: int, completion: str, *, gold: str | None = None, text: str = "", told: bool = True) -> dict[str, Any]:
    """A row of the dataset, whose length and confidence differ from record to record."""
    draw = np.random.default_rng(i)
    confidence = float(draw.uniform(0.3, 0.999))
    tokens = [1] * int(draw.integers(5, 60))
    logprobs = [float(np.log(confidence)), 0.0] if told else None
    written = Completion(tokens, completion, [7, 0], "stop", logprobs, None)
    return to_row(Record(f"r{i}", i, {"text": text or f"the film number {i}, " + "word " * len(tokens)}, gold), written)


def sentiments(count: int, *, wrong: float = 0.1) -> list[dict[str, Any]]:
    """Every third one is positive; of all, a share is wrong."""
    draw = np.random.default_rng(0)
    rows = []
    for i in range(count):
        right, other = ("positive", "negative") if i % 3 == 0 else ("negative", "positive")
        rows.append(record(i, f" {other if draw.random() < wrong else right}", gold=right))
    return rows


def made(run: Run, recipe: Recipe, rows: list[dict[str, Any]]) -> Run:
    """A run whose dataset has these rows, shared out to all splits."""
    splits: dict[str, list[dict[str, Any]]] = {}
    start = 0
    for split, share in SHARES.items():
        end = len(rows) if split == "test" else start + round(share * len(rows))
        splits[split] = rows[start:end]
        start = end
    commit_dataset(recipe, run, splits)
    return run
