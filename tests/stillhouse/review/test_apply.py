"""What judgements change of a dataset, and what they leave alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow
import pytest
from reviews_made import JSON_TASK, TEXT_TASK, MakeRecipe

from stillhouse.data import REVIEWER, Record
from stillhouse.recipe import Task
from stillhouse.review.apply import Reviewed, apply, corrected_completion
from stillhouse.review.outcome import Key, Outcome
from stillhouse.review.sample import content_of
from stillhouse.signal.schema import Completion, signals, to_row, to_table
from stillhouse.signal.sparse import SparseSignal
from stillhouse.task import answer

Row = dict[str, Any]


def row(i: int, completion: str, *, gold: str | None = None, sample: int = 0) -> Row:
    signal = SparseSignal.of([[5, 6], [0]], [[-0.5, -1.0], [0.0]])
    written = Completion([1, i], completion, [5, 0], "stop", [-0.5, 0.0], signal)
    return to_row(Record(f"r{i}", i, {"text": f"t{i}"}, gold), written, sample)


def encode(text: str) -> list[int]:
    return [*text.encode(), 0]


def applied(task: Task, rows: Sequence[Row], splits: Sequence[str], said: dict[int, Outcome]) -> Reviewed:
    """Apply what is said of some rows, by their places."""
    table = to_table(list(rows))
    table = table.append_column("answer", pyarrow.array([answer(task, each["completion"]) for each in rows]))
    table = table.append_column("group", pyarrow.array(range(len(rows)), pyarrow.int64()))
    found: dict[Key, Outcome] = {
        (rows[i]["id"], content_of(task, json.loads(rows[i]["fields"]), rows[i]["completion"])): outcome
        for i, outcome in said.items()
    }
    return apply(task, table, splits, found, encode)


def test_rejected_ones_go_and_all_others_stay_as_they_are(make_recipe: MakeRecipe) -> None:
    task = make_recipe().task
    rows = [row(i, " positive", gold="positive") for i in range(4)]
    splits = ["train", "test", "calibration", "train"]
    found = applied(task, rows, splits, {0: Outcome("reject"), 1: Outcome("reject"), 2: Outcome("accept")})
    assert found.splits == ["", "", "calibration", "train"]
    assert found.corrected == 0
    untouched = applied(task, rows, splits, {})
    assert untouched.dataset.equals(found.dataset)
    assert untouched.splits == splits


def test_a_correction_is_learnt_without_the_teachers_signal(make_recipe: MakeRecipe) -> None:
    task = make_recipe().task
    rows = [row(i, " positive") for i in range(4)]
    wrong = Outcome("correct", "negative")
    found = applied(task, rows, ["train", "validation", "calibration", "test"], dict.fromkeys(range(4), wrong))
    assert found.corrected == 2
    after = found.dataset.to_pylist()
    assert [each["id"] for each in after] == ["r0", "r1", "r2", "r3"], "in their places"
    assert [each["gold"] for each in after] == ["negative"] * 4
    for each, old in zip(after[:2], rows, strict=False):
        assert (each["completion"], each["answer"], each["teacher"]) == (" negative", "negative", REVIEWER)
        assert each["completion_token_ids"] == encode(" negative")
        assert (each["token_logprobs"], each["top_ids"], each["mass"]) == (None, None, None)
        assert each["prompt_token_ids"] == old["prompt_token_ids"]
        assert each["finish_reason"] == "stop"
        assert each["group"] == old["index"]
    for each, old in zip(after[2:], rows[2:], strict=True):
        assert (each["completion"], each["answer"], each["teacher"]) == (" positive", "positive", "teacher")
        assert each["token_logprobs"] == old["token_logprobs"]
    assert [signal is None for signal in signals(found.dataset)] == [True, True, False, False]


def test_an_accepted_answer_is_gold_where_there_is_none(make_recipe: MakeRecipe) -> None:
    task = make_recipe().task
    rows = [row(0, " positive"), row(1, " positive", gold="negative"), row(2, " positive")]
    found = applied(task, rows, ["train"] * 3, {0: Outcome("accept"), 1: Outcome("accept")})
    assert found.dataset["gold"].to_pylist() == ["positive", "negative", None]
    assert found.corrected == 0


def test_the_other_completions_of_a_record(make_recipe: MakeRecipe) -> None:
    task = make_recipe().task
    rows = [row(0, " positive"), row(0, " negative", sample=1), row(0, " positive", sample=2)]
    rejected = applied(task, rows, ["train"] * 3, {0: Outcome("reject")})
    assert rejected.splits == ["", "train", ""], "the same answer is as wrong"
    corrected = applied(task, rows, ["train", "train", ""], {0: Outcome("correct", "negative")})
    assert corrected.dataset["completion"].to_pylist() == [" negative", " negative", " positive"]
    assert [signal is None for signal in signals(corrected.dataset)] == [True, False, False]


def test_judgements_of_what_is_not_there_change_nothing(make_recipe: MakeRecipe) -> None:
    task = make_recipe().task
    table = to_table([row(0, " positive")]).append_column("answer", pyarrow.array(["positive"]))
    said = {("r0", "of another completion"): Outcome("reject"), ("r9", "gone"): Outcome("correct", "negative")}
    found = apply(task, table, ["train"], said, encode)
    assert (found.splits, found.corrected) == (["train"], 0)
    assert found.dataset.equals(table)


@pytest.mark.parametrize(
    ("changes", "teachers", "correction", "written"),
    [
        ({}, " positive", "negative", " negative"),
        (JSON_TASK, '{"name":"A"}', '{"name": "B", "age": 1}', '{"name":"B","age":1}'),
        (JSON_TASK, '\n{\n  "name": "A"\n}', '{"name": "ß"}', '\n{\n  "name": "ß"\n}'),
        (JSON_TASK, '{ "name" :"A"}', '{"name":"B"}', '{"name": "B"}'),
        (TEXT_TASK, " a film.\n", "another film.", " another film."),
    ],
)
def test_a_correction_is_written_as_the_teacher_writes(
    make_recipe: MakeRecipe, changes: dict[str, Any], teachers: str, correction: str, written: str
) -> None:
    task = make_recipe(changes).task
    found = corrected_completion(task, teachers, correction)
    assert found == written
    assert answer(task, found) == answer(task, correction)
