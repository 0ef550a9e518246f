"""Which gold answers a teacher is tuned on, and the training that they make."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stillhouse.data import Record
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.teachers import told, tuned
from stillhouse.tuning import as_student, choose

MakeRecipe = Callable[..., Recipe]
Row = dict[str, Any]


def row(i: int) -> Row:
    """Every other record has a gold answer."""
    text = " ".join(f"w{i}x{j}" for j in range(8))
    return {"id": f"r{i}", "text": text, "label": "positive" if i % 2 else ""}


@pytest.fixture
def recipe_of(tmp_path: Path, make_recipe: MakeRecipe) -> Callable[..., Recipe]:
    """A recipe that tunes on these rows."""

    def make(rows: Sequence[Row], changes: dict[str, Any] | None = None, **tune: Any) -> Recipe:
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in rows))
        return make_recipe({"data.path": str(path), "teacher.tune": {"records": 40, **tune}, **(changes or {})})

    return make


def ids(chosen: dict[str, list[Record]]) -> dict[str, set[str]]:
    return {split: {record.id for record in records} for split, records in chosen.items()}


def test_gold_answers_alone_are_chosen_and_a_share_kept_apart(recipe_of: Callable[..., Recipe]) -> None:
    chosen = choose(recipe_of([row(i) for i in range(200)], validation=0.25))
    assert {split: len(records) for split, records in chosen.items()} == {"train": 30, "validation": 10}
    found = ids(chosen)
    assert len(found["train"] | found["validation"]) == 40
    assert all(record.gold == "positive" for records in chosen.values() for record in records)


def test_the_choice_hangs_on_the_seed_and_not_on_the_order(recipe_of: Callable[..., Recipe]) -> None:
    rows = [row(i) for i in range(200)]
    first = ids(choose(recipe_of(rows)))
    random.Random(0).shuffle(rows)
    assert ids(choose(recipe_of(rows))) == first
    other = ids(choose(recipe_of(rows, {"seed": 1})))
    both = first["train"] | first["validation"], other["train"] | other["validation"]
    assert both[0] != both[1]


def test_a_new_row_takes_the_place_of_one_at_most(recipe_of: Callable[..., Recipe]) -> None:
    def everything(count: int) -> set[str]:
        return set().union(*ids(choose(recipe_of([row(i) for i in range(count)]))).values())

    assert len(everything(200) - everything(202)) <= 1


def test_near_duplicates_stand_on_one_side(recipe_of: Callable[..., Recipe]) -> None:
    rows = [row(1 + 2 * (i % 30)) | {"id": f"r{i}"} for i in range(60)]
    rows += [{**row(1000 + 2 * i), "label": ""} for i in range(60)]
    chosen = choose(recipe_of(rows, records=60, validation=0.2))
    texts = {split: {record.fields["text"] for record in records} for split, records in chosen.items()}
    assert not texts["train"] & texts["validation"]
    assert {split: len(records) for split, records in chosen.items()} == {"train": 48, "validation": 12}


def test_one_text_again_and_again_leaves_nothing_to_hold_out(recipe_of: Callable[..., Recipe]) -> None:
    rows = [row(1) | {"id": f"r{i}"} for i in range(60)]
    with pytest.raises(UserError, match="too few distinct records to tune on: none is left for validation"):
        choose(recipe_of(rows, records=30))


@pytest.mark.parametrize(
    ("count", "records", "sentence"),
    [
        (200, 101, "101 gold answers are to be tuned on, and 100 of 200 records have one: lower it, or label more"),
        (60, 30, None),
        (61, 30, None),
    ],
)
def test_too_few_gold_answers(recipe_of: Callable[..., Recipe], count: int, records: int, sentence: str | None) -> None:
    recipe = recipe_of([row(i) for i in range(count)], records=records)
    if sentence is None:
        assert sum(map(len, choose(recipe).values())) == records
    else:
        with pytest.raises(UserError) as caught:
            choose(recipe)
        assert str(caught.value) == f"teacher.tune.records: {sentence}"


def test_what_is_tuned_on_must_leave_room_for_the_splits_that_measure(recipe_of: Callable[..., Recipe]) -> None:
    rows = [{**row(i), "label": "positive"} for i in range(100)]
    assert sum(map(len, choose(recipe_of(rows, records=75)).values())) == 75
    with pytest.raises(UserError, match="of 100 records no more than 75 are for training: lower it, or add data"):
        choose(recipe_of(rows, records=76))


def test_the_teacher_takes_the_students_place(make_recipe: MakeRecipe) -> None:
    tune = {"lora": {"rank": 4}, "epochs": 7, "learning_rate": 0.001, "workers": 1, "max_length": 99}
    recipe = make_recipe(
        {"teacher.tune": tune, "student.epochs": 2, "student.tracking": {"mlflow": None}, "capture.mode": "sampled",
         "student.temperature": 1}
    )  # fmt: skip
    student = as_student(recipe).student
    assert (student.init.kind, student.init.model) == ("pretrained", recipe.teacher.model)
    assert (student.kd_weight, student.ce_weight, student.ce_on) == (0, 1, "teacher")
    assert student.lora is not None
    assert (student.lora.rank, student.epochs, student.learning_rate) == (4, 7, 0.001)
    assert (student.workers, student.max_length, student.tracking.mlflow) == (1, 99, None)


def test_the_tuned_teacher_answers_where_there_is_one(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    plain, recipe = make_recipe(), make_recipe({"teacher.tune": {"records": 40}})
    run = Run.open(str(tmp_path / "run"))
    assert tuned(plain, run) is plain
    with pytest.raises(UserError, match="has no finished teacher: run `stillhouse tune` first"):
        tuned(recipe, run)
    run.commit("teacher", recipe=recipe, inputs={}, began=0.0)
    found = tuned(recipe, run)
    assert found.teacher.model == f"{run.uri}/teacher"
    assert tuned(found, run) == found
    assert found.model_copy(update={"teacher": recipe.teacher}) == recipe
    assert told(plain.teacher) == "/nowhere/teacher"
    assert told(recipe.teacher) == "/nowhere/teacher, tuned on 40 gold labels"
