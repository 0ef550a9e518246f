"""Differences between models: of which metric, on which records, with which sign."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from stillhouse.metrics.comparison import Difference, differences, metrics_of

LABELS = ["a", "b", "c"]


def drawn(n: int, seed: int, right: float, gold: list[str]) -> list[str | None]:
    rng = np.random.default_rng(seed)
    return [truth if rng.random() < right else [*LABELS, None][rng.integers(4)] for truth in gold]


def test_choices() -> None:
    gold = [LABELS[i] for i in np.random.default_rng(0).integers(0, 3, 400)]
    answers = {"teacher": drawn(400, 1, 0.9, gold), "student": drawn(400, 2, 0.6, gold)}
    found = differences(answers, [*gold[:300], *[None] * 100], against="gold", metrics=metrics_of("choices", LABELS))
    assert [(one.metric, one.of, one.minus) for one in found] == [
        ("accuracy", "student", "teacher"),
        ("macro_f1", "student", "teacher"),
    ]
    accuracy, f1 = found
    shares = {
        name: float(np.mean([a == b for a, b in zip(given[:300], gold, strict=False)]))
        for name, given in answers.items()
    }
    assert (accuracy.first, accuracy.second) == pytest.approx((shares["student"], shares["teacher"]))
    assert accuracy.difference.value == pytest.approx(shares["student"] - shares["teacher"])
    assert accuracy.difference.n == 300
    expected = [
        f1_score(gold[:300], [str(a) for a in answers[name][:300]], labels=LABELS, average="macro")
        for name in ("student", "teacher")
    ]
    assert (f1.first, f1.second) == pytest.approx(expected)
    for one in found:
        assert one.difference.low < one.difference.value < one.difference.high < 0
        assert Difference.model_validate_json(one.model_dump_json()) == one


def test_a_cascade_that_is_the_teacher_differs_by_nothing() -> None:
    gold = ["a", "b"] * 20
    teacher = drawn(40, 3, 0.7, gold)
    answers = {"teacher": teacher, "cascade": teacher, "student": ["a"] * 40}
    pairs = [("cascade", "teacher"), ("student", "tfidf")]
    (accuracy, _) = differences(answers, gold, against="gold", metrics=metrics_of("choices", LABELS), pairs=pairs)
    assert (accuracy.of, accuracy.difference.low, accuracy.difference.high) == ("cascade", 0, 0)


def test_json_and_text() -> None:
    reference = [json.dumps({"n": i, "tags": ["x"]}) for i in range(30)]
    answers = {"teacher": reference, "student": [json.dumps({"n": i, "tags": []}) for i in range(30)]}
    exact, fields = differences(answers, reference, against="teacher", metrics=metrics_of("json"))
    assert (exact.difference.value, fields.metric, fields.first, fields.second) == (-1, "field_f1", 0.5, 1)
    told = {"teacher": ["the very same"] * 5, "student": ["the very other", None, *["the very same"] * 3]}
    exact, rouge = differences(told, ["the very same"] * 5, against="gold", metrics=metrics_of("text"))
    assert (exact.first, rouge.first, rouge.second) == pytest.approx((0.6, (2 / 3 + 3) / 5, 1))


def test_without_a_reference_there_is_no_difference() -> None:
    answers = {"teacher": ["a"], "student": ["b"]}
    assert differences(answers, [None], against="gold", metrics=metrics_of("choices", LABELS)) == []
    with pytest.raises(ValueError, match="one answer a record"):
        differences(answers, ["a", "b"], against="gold", metrics=metrics_of("choices", LABELS))
