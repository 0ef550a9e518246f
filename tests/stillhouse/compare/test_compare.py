"""Two runs side by side: what is paired, what is not, and what cannot be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from report_made import LABELS, LINEAGE, drawn, letters, recipe_of
from typer.testing import CliRunner

from stillhouse.calibration import calibrate
from stillhouse.cli import app
from stillhouse.compare import compare
from stillhouse.compare.show import render_comparison
from stillhouse.errors import UserError
from stillhouse.metrics import Prediction
from stillhouse.recipe import Recipe
from stillhouse.report import build_report
from stillhouse.run import Run
from stillhouse.signal.schema import write_table


def finished(folder: Path, test: list[Prediction], recipe: Recipe | None = None, **hashes: str) -> Run:
    """A run with an evaluation of those predictions, stored as the job stores it."""
    recipe = recipe or recipe_of("choices")
    run = Run.open(str(folder))
    run.begin(recipe)
    calibrated = calibrate(drawn(recipe.task.kind, 400, seed=1), recipe)
    report = build_report(
        test,
        calibrated,
        recipe,
        run=run.uri,
        funnel={},
        lineage=LINEAGE.model_copy(update={"hashes": {**LINEAGE.hashes, **hashes}}),
        embed=letters if recipe.task.kind == "text" else None,
    )
    names = Prediction.__dataclass_fields__
    rows = [{"split": "test", **{name: getattr(p, name) for name in names if name != "evidence"}} for p in test]
    run.storage.write("evaluation/report.json", report.to_json())
    run.storage.write("evaluation/predictions.parquet", write_table(pyarrow.Table.from_pylist(rows), {}))
    run.commit("evaluation", recipe=recipe, inputs={}, began=0.0)
    return run


def better(predictions: list[Prediction], share: float = 0.5, seed: int = 5) -> list[Prediction]:
    """The same records with a student that is right more often."""
    rng = np.random.default_rng(seed)
    return [replace(p, student=p.gold) if rng.random() < share else p for p in predictions]


def test_the_same_records_are_paired(tmp_path: Path) -> None:
    test = drawn("choices", 300)
    other = better(test)
    recipe = recipe_of("choices", student={"init": {"kind": "pretrained", "model": "small"}})
    one, two = finished(tmp_path / "one", test), finished(tmp_path / "two", other, recipe, student="b" * 64)
    found = compare(one, two)
    assert (found.common_n, found.remarks) == (300, ())
    differences = {(d.of, d.metric, d.against): d for d in found.differences}
    student = differences["student", "accuracy", "gold"]
    shares = [np.mean([p.student == p.gold for p in run]) for run in (test, other)]
    assert student.difference.value == pytest.approx(shares[1] - shares[0])
    assert student.difference.low > 0
    assert (student.of, student.minus) == ("student", "student")
    teacher = differences["teacher", "accuracy", "gold"].difference
    assert (teacher.value, teacher.low, teacher.high) == (0, 0, 0)
    assert ("teacher", "accuracy", "teacher") not in differences
    scores = {(s.who, s.metric, s.against): s for s in found.scores}
    pair = scores["student", "accuracy", "gold"]
    assert pair.first is not None
    assert pair.second is not None
    assert (pair.first.value, pair.second.value) == pytest.approx(shares)
    changed = {change.key: (change.first, change.second) for change in found.recipe}
    assert changed["student.init.kind"] == ("teacher_layers", "pretrained")
    assert {change.key for change in found.lineage} == {"student, sha256"}


def test_swapped_runs_have_the_other_sign(tmp_path: Path) -> None:
    test = drawn("choices", 200)
    one, two = finished(tmp_path / "one", test), finished(tmp_path / "two", better(test))
    there, back = compare(one, two), compare(two, one)
    assert [d.difference.value for d in there.differences] == pytest.approx(
        [-d.difference.value for d in back.differences]
    )
    same = compare(one, one)
    assert all(d.difference.value == 0 for d in same.differences)
    assert (same.recipe, same.lineage) == ((), ())


def test_what_is_not_paired_is_said(tmp_path: Path) -> None:
    test = drawn("choices", 120)
    one = finished(tmp_path / "one", test)
    apart = compare(one, finished(tmp_path / "apart", drawn("choices", 120, seed=8, prefix="x")))
    assert (apart.common_n, apart.differences) == (0, ())
    assert "their differences are not paired" in apart.remarks[0]
    some = compare(one, finished(tmp_path / "some", test[:80]))
    assert some.common_n == 80
    assert some.remarks == ("The runs have 80 test records in common, of 120 and 80: differences are on those alone.",)
    # A record of the same id with another text is another record.
    renamed = [replace(p, text=f"{p.text}!") for p in test]
    assert compare(one, finished(tmp_path / "renamed", renamed)).common_n == 0


def test_other_teachers_are_held_against_gold_alone(tmp_path: Path) -> None:
    test = drawn("choices", 100)
    other = [replace(p, teacher="bad") for p in test]
    found = compare(finished(tmp_path / "one", test), finished(tmp_path / "two", other))
    assert {d.against for d in found.differences} == {"gold"}
    assert "The teachers answered otherwise" in found.remarks[0]
    bare = [[replace(p, gold=None) for p in run] for run in (test, other)]
    found = compare(finished(tmp_path / "three", bare[0]), finished(tmp_path / "four", bare[1]))
    assert found.differences == ()
    assert found.remarks[0].endswith("and without gold nothing is.")


def test_texts_are_compared_by_similarity_too(tmp_path: Path) -> None:
    recipe, test = recipe_of("text"), drawn("text", 60)
    one, two = finished(tmp_path / "one", test, recipe), finished(tmp_path / "two", better(test), recipe)
    found = compare(one, two, embed=letters)
    assert {d.metric for d in found.differences} == {"exact_match", "rouge_l", "similarity", "alike"}


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (recipe_of("json"), "other kinds of answers"),
        (
            recipe_of("choices", task={"kind": "choices", "prompt": "{text}", "choices": [*LABELS, "none"]}),
            "other choices of answers",
        ),
    ],
)
def test_different_tasks_are_refused(tmp_path: Path, other: Recipe, sentence: str) -> None:
    one = finished(tmp_path / "one", drawn("choices", 50))
    two = finished(tmp_path / "two", drawn(other.task.kind, 50), other)
    with pytest.raises(UserError, match=f"have different tasks \\({sentence}\\), so that their numbers"):
        compare(one, two)


def test_another_prompt_is_no_other_task(tmp_path: Path) -> None:
    test = drawn("choices", 50)
    task = {"kind": "choices", "prompt": "Film: {text}\nOpinion:", "choices": [f" {label}" for label in LABELS]}
    found = compare(finished(tmp_path / "one", test), finished(tmp_path / "two", test, recipe_of("choices", task=task)))
    assert [change.key for change in found.recipe] == ["task.prompt"]


def test_what_is_no_evaluation_is_one_sentence(tmp_path: Path) -> None:
    one = finished(tmp_path / "one", drawn("choices", 50))
    with pytest.raises(UserError, match="has no finished evaluation: run `stillhouse evaluate` first"):
        compare(one, Run.open(str(tmp_path / "nothing")))
    old = finished(tmp_path / "old", drawn("choices", 50))
    content = json.loads(old.storage.read("evaluation/report.json"))
    old.storage.write("evaluation/report.json", json.dumps({**content, "format_version": 1}).encode())
    with pytest.raises(UserError, match="of another version of stillhouse: run `stillhouse evaluate` again"):
        compare(one, old)
    old.storage.delete("evaluation/report.json")
    with pytest.raises(UserError, match="does not hold all of an evaluation"):
        compare(one, old)


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["compare", *words])


def test_the_command(tmp_path: Path) -> None:
    test = drawn("choices", 150)
    for name, found in (("one", test), ("two", better(test))):
        finished(tmp_path / name, found)
    runs = [str(tmp_path / "one"), str(tmp_path / "two")]
    page = tmp_path / "page.html"
    done = call(*runs, "--json", "--html", str(page))
    assert done.exit_code == 0
    assert json.loads(done.stdout)["common_n"] == 150
    html = page.read_text()
    assert "Two runs side by side" in html
    assert "<script" not in html
    shown = call(*runs)
    assert shown.exit_code == 0
    words = " ".join(shown.stdout.split())
    for word in ("first:", "second − first", "Student: Accuracy", "Answered alone", "recipe: the same"):
        assert word in words, shown.stdout
    refused = call(*runs, "--html", str(tmp_path / "no" / "page.html"))
    assert isinstance(refused.exception, UserError)
    assert "cannot be written: No such file or directory" in str(refused.exception)


EVIL = "<script>alert('x')</script>"


def test_everything_a_user_supplies_is_escaped(tmp_path: Path) -> None:
    test = drawn("choices", 50)
    recipe = recipe_of("choices", teacher={"model": EVIL}, prices={"currency": "<b>", "teacher_input": 1})
    found = compare(finished(tmp_path / "one", test), finished(tmp_path / "two", test, recipe, **{EVIL: EVIL}))
    html = render_comparison(found)
    assert "<script" not in html
    assert "<b>" not in html
    assert html.count("&lt;script&gt;") >= 3
