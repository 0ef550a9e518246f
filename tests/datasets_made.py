"""Datasets for the tests of what comes after curation, made through the real schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow

from stillhouse.data import Record
from stillhouse.endpoint.student import MODEL, RemoteStudent
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.signal.schema import Completion, to_row, to_table, write_table
from stillhouse.task import answer


def row(
    i: int, text: str, completion: str, *, gold: str | None = None, finish_reason: str = "stop", tokens: int = 3
) -> dict[str, Any]:
    """What the capture of one record stores, as text alone: a prompt of `tokens` tokens, and a completion of two."""
    written = Completion(list(range(tokens)), completion, [7, 0], finish_reason, None, None)
    return to_row(Record(f"r{i}", i, {"text": text}, gold), written)


def sentiment(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Rows whose answer is the word that the text holds."""
    rows = []
    for i, text in enumerate(texts):
        word = "positive" if "good" in text else "negative"
        rows.append(row(i, text, f" {word}", gold=word))
    return rows


def commit_dataset(recipe: Recipe, run: Run, splits: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Write the splits as curation does, and finish the step; a train split that is not given is empty."""
    run.begin(recipe)
    for split, rows in {"train": [], **splits}.items():
        table = to_table(list(rows), mode="text")
        answers = [answer(recipe.task, each["completion"]) for each in rows]
        table = table.append_column("answer", pyarrow.array(answers, pyarrow.string()))
        run.storage.write(f"dataset/{split}.parquet", write_table(table, {"split": split}))
    counts: dict[str, int | float] = {"captured": sum(map(len, splits.values()))}
    counts |= {split: len(splits.get(split, ())) for split in ("train", "validation", "calibration", "test")}
    run.commit("dataset", recipe=recipe, inputs={}, counts=counts, began=0.0)


def commit_remote_student(recipe: Recipe, run: Run, model: str) -> None:
    """Finish the student's step as a fine-tuning through an API does."""
    assert recipe.student.openai is not None
    found = RemoteStudent(model=model, url=recipe.student.openai.url, job="ftjob-0", openai={})
    run.storage.write(MODEL, found.model_dump_json().encode())
    run.commit("student", recipe=recipe, inputs={}, began=0.0)
