"""Everybody on the same records: against scikit-learn and by hand, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from report_made import LABELS, drawn, letters, made, recipe_of, train_split
from sklearn.metrics import accuracy_score, f1_score

from stillhouse.metrics import Prediction
from stillhouse.metrics.texts import cosines
from stillhouse.report import render_html, sentences
from stillhouse.report.baselines import TrainSplit, baseline_answers
from stillhouse.report.side_by_side import SideBySide, cosine_of, side_by_side
from stillhouse.report.tables import tables
from stillhouse.report.words import measured, percent


def graded(predictions: list[Prediction], train: TrainSplit | None = None, margin: float = 0.02) -> SideBySide:
    return side_by_side(
        predictions,
        [p.student if p.confidence > 0.6 else p.teacher for p in predictions],
        kind="choices",
        labels=LABELS,
        baselines=baseline_answers(train, [p.text for p in predictions]) if train else {},
        margin=margin,
    )


def test_the_table_is_scikit_learns() -> None:
    predictions = drawn("choices", 400)
    found = graded(predictions, train_split())
    gold = [p.gold for p in predictions]
    for who in ("teacher", "student"):
        answers = [getattr(p, who) or "none" for p in predictions]
        row = found.row(who)
        accuracy, f1 = row.get("accuracy", "gold"), row.get("macro_f1", "gold")
        assert accuracy is not None
        assert f1 is not None
        assert accuracy.value == pytest.approx(accuracy_score(gold, answers))
        assert f1.value == pytest.approx(f1_score(gold, answers, labels=LABELS, average="macro"))
        assert f1.low < f1.value < f1.high
    assert found.row("teacher").get("accuracy", "teacher") is None
    agreement = found.row("student").get("accuracy", "teacher")
    assert agreement is not None
    assert agreement.value == pytest.approx(np.mean([p.student == p.teacher for p in predictions]))
    assert [row.who for row in found.rows] == ["teacher", "student", "cascade", "majority", "tfidf", "tfidf_gold"]
    assert found.classes is not None
    assert list(found.classes) == ["teacher", "student", "cascade"]


def test_gold_on_some_records_is_the_reference_on_those() -> None:
    predictions = [replace(p, gold=p.gold if i < 30 else None) for i, p in enumerate(drawn("choices", 100))]
    found = graded(predictions)
    assert (found.reference, found.reference_n) == ("gold", 30)
    assert [one.found.n for one in found.non_inferiority] == [30, 30]
    assert {one.against: one.difference.n for one in found.differences} == {"gold": 30, "teacher": 100}


def test_without_gold_the_teacher_is_the_reference() -> None:
    found = graded(drawn("choices", 200, gold=False), train_split(gold=False))
    assert found.reference == "teacher"
    for one in found.non_inferiority:
        measured = found.row(one.who).get("accuracy", "teacher")
        assert measured is not None
        assert one.found.difference == pytest.approx(measured.value - 1)
    assert [baseline.who for baseline in found.baselines] == ["majority", "tfidf"]
    assert found.classes is not None
    assert "teacher" not in found.classes  # it is right by definition
    told = sentences.verdict(found, released=True)
    assert "differs from the teacher on over 2% of requests, with 95% confidence" in told
    assert told.endswith("Right is the teacher’s own answer.")
    assert "as often right" not in told


def test_the_verdict_leads_with_what_is_released() -> None:
    found = graded(drawn("choices", 3000, teacher=0.9, student=0.99))
    told = sentences.verdict(found, released=True)
    assert told.startswith("The cascade is within 2 percentage points of the teacher, with 95% confidence")
    assert "The student " in told
    unreleased = sentences.verdict(found, released=False)
    assert unreleased.startswith("The student ")
    assert "The cascade" not in unreleased
    close = graded(drawn("choices", 3000, student=0.999, gold=False), margin=0.05)
    assert (
        "The cascade gives the teacher’s answer to all but at most 5% of requests, with 95% confidence: on 3,000 test"
        in sentences.verdict(close, released=True)
    )


def test_too_few_records_are_told_how_many_it_takes() -> None:
    told = sentences.verdict(graded(drawn("choices", 40, student=0.995, gold=False)), released=True)
    assert "These test records cannot tell whether the cascade gives the teacher’s answer to all but 2%" in told
    assert "would, if the rates stay what they are." in told


def test_a_teacher_that_is_worse_than_a_baseline_is_an_alarm() -> None:
    """The words tell the answer in half of the records, and the teacher guesses."""
    report = made(recipe=recipe_of("choices"), teacher=0.3)
    (alarm,) = report.alarms
    assert alarm.startswith("The teacher is no better than ")
    assert "TF-IDF with logistic regression, trained on gold (" in alarm
    html = render_html(report)
    assert html.index(alarm.split(" (")[0]) < html.index(report.verdict[:40])
    assert made(teacher=0.95).alarms == []


def test_a_student_that_is_worse_than_a_baseline_is_a_warning() -> None:
    predictions = [replace(p, student="bad") for p in drawn("choices", 300)]
    found = graded(predictions, train_split())
    told = sentences.warnings(found)
    assert len(told) == 2
    assert told[0].startswith("The student is right no more often than always answering “")
    assert told[1].startswith("The student agrees with the teacher no more often than ")


def test_baselines_learn_from_the_train_split_alone() -> None:
    train = TrainSplit(["red apple", "red rose", "blue sky", "blue sea"], ["a", "a", "b", "b"], [None, "b", None, "b"])
    found = {one.who: (one, answers) for one, answers in baseline_answers(train, ["red", "blue"]).items()}
    assert (found["majority"][0].trained_on, found["majority"][0].train_n, found["majority"][0].label) == (
        "gold",
        2,
        "b",
    )
    assert found["tfidf"][1] == ["a", "b"]
    assert found["tfidf_gold"][1] == ["b", "b"]
    assert baseline_answers(TrainSplit([], [], []), ["red"]) == {}
    silent = baseline_answers(TrainSplit(["…", "!"], ["a", "b"], [None, None]), ["red"])
    assert [one.who for one in silent] == ["majority"]


def test_json_has_validity_and_fields() -> None:
    found = made("json").side_by_side
    validity = found.row("student").get("validity", None)
    assert validity is not None
    assert 0.95 < validity.value < 1
    assert found.right_by == "exact_match"
    assert found.fields is not None
    assert [field.path for field in found.fields["student"].fields] == ["name", "tags[]"]
    assert (found.classes, found.similarity, found.baselines) == (None, None, ())


def test_texts_are_right_when_they_are_alike() -> None:
    predictions = drawn("text", 60)
    cosine = cosine_of(letters, [[answer for p in predictions for answer in (p.gold, p.teacher, p.student)]])
    found = side_by_side(
        predictions, [p.teacher for p in predictions], kind="text", labels=[], baselines={}, margin=0.02, cosine=cosine
    )
    student = [p.student or "" for p in predictions]
    expected = cosines(letters(student), letters([p.gold or "" for p in predictions]))
    expected[[p.student is None for p in predictions]] = 0
    mean, alike = (found.row("student").get(metric, "gold") for metric in ("similarity", "alike"))
    assert mean is not None
    assert alike is not None
    assert mean.value == pytest.approx(expected.mean(), abs=1e-6)
    assert alike.value == pytest.approx((expected > 0.9).mean())
    assert found.right_by == "alike"
    assert found.non_inferiority[0].found.difference == 0
    assert found.similarity is not None
    assert found.similarity["student"].mean.value == pytest.approx(mean.value)


def test_the_summary_means_the_same_by_right_as_the_verdict() -> None:
    report = made("text")
    right = report.side_by_side.row("cascade").get("alike", "gold")
    exact = report.quality.cascade
    assert right is not None
    assert exact is not None
    assert right.value != exact.value
    assert f"right on {percent(right.value)}" in report.summary
    assert f">{measured(right.value)}</dd>" in render_html(report)


def test_the_tables_hold_every_score_once() -> None:
    for kind in ("choices", "json", "text"):
        found = made(kind).side_by_side
        shown = tables(found)
        assert [table.against for table in shown] == ["gold", "teacher"]
        gold, teacher = shown
        assert "teacher" in [row.who for row in gold.rows]
        assert "teacher" not in [row.who for row in teacher.rows]
        for table in shown:
            for row in (*table.rows, *table.differences):
                assert all(cell is not None for cell in row.cells), (kind, row)
    gold, teacher = tables(made("json").side_by_side)
    assert ("Valid JSON" in [one.title for one in gold.metrics], len(teacher.metrics)) == (True, 2)
    (only,) = tables(made("json", gold=False).side_by_side)
    assert [row.who for row in only.rows] == ["teacher", "student", "cascade"]
    assert only.rows[0].cells[1:] == [None, None]  # valid, and held against itself
