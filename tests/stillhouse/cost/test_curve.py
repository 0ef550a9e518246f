"""Quality against cost, against the cascade played record by record."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from stillhouse.cost import Tokens, costs
from stillhouse.cost.curve import CostCurve, cost_curve
from stillhouse.metrics import Prediction
from stillhouse.recipe import Prices

PRICES = Prices(teacher_input=10, teacher_output=30, student_input=1, student_output=3)


def prediction(**changes: Any) -> Prediction:
    keys: dict[str, Any] = {"id": "r", "text": "", "gold": "a", "teacher": "a", "student": "a", "confidence": 0.5}
    for who in ("teacher", "student"):
        keys |= {f"{who}_prompt_tokens": 100, f"{who}_completion_tokens": 2}
    return Prediction(**{**keys, **changes})


def many(n: int, *, distinct: int = 10**6, seed: int = 0) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    return [
        prediction(
            id=str(i),
            gold="ab"[rng.integers(2)],
            teacher=[None, "a", "b"][rng.integers(3)],
            student=[None, "a", "b"][rng.integers(3)],
            confidence=rng.integers(distinct) / distinct,
            teacher_prompt_tokens=int(rng.integers(1, 200)),
            student_completion_tokens=int(rng.integers(1, 9)),
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("against", ["gold", "teacher"])
def test_each_point_is_the_cascade_at_its_threshold(against: Any) -> None:
    predictions = many(150, distinct=40)
    curve = cost_curve(predictions, against=against, threshold=0.61, prices=PRICES)
    for point in curve.points:
        threshold = math.inf if point.threshold is None else point.threshold
        cost, right = 0.0, 0
        for p in predictions:
            cost += p.student_prompt_tokens + 3 * p.student_completion_tokens
            answer = p.student
            if p.confidence < threshold:
                cost += 10 * p.teacher_prompt_tokens + 30 * p.teacher_completion_tokens
                answer = p.teacher
            right += answer is not None and answer == (p.gold if against == "gold" else p.teacher)
        assert point.coverage == pytest.approx(np.mean([p.confidence >= threshold for p in predictions]))
        assert point.cost == pytest.approx(cost / 150)
        assert point.quality.value == pytest.approx(right / 150)
        assert point.quality.low <= point.quality.value <= point.quality.high
    assert [point.coverage for point in curve.points] == sorted({point.coverage for point in curve.points})
    assert (curve.points[0].coverage, curve.points[-1].coverage) == (0, 1)
    assert curve.points[0].cost == pytest.approx(curve.teacher_cost + curve.student_cost)
    assert curve.points[-1].cost == pytest.approx(curve.student_cost)
    assert curve.points[-1].quality == curve.student_quality
    assert curve.points[0].quality == curve.teacher_quality
    assert [point.threshold for point in curve.points if point.chosen] == [0.61]
    assert curve.chosen.coverage == pytest.approx(np.mean([p.confidence >= 0.61 for p in predictions]))


@pytest.mark.parametrize("threshold", [None, 0.0, 0.31234, 1.0])
def test_many_records_are_few_points_with_the_chosen_one(threshold: float | None) -> None:
    predictions = many(3000)
    curve = cost_curve(predictions, against="gold", threshold=threshold, prices=PRICES)
    assert 100 < len(curve.points) <= 200
    assert sum(point.chosen for point in curve.points) == 1
    assert curve.chosen.threshold == threshold
    assert (curve.points[0].coverage, curve.points[-1].coverage) == (0, 1)
    assert max(np.diff([point.coverage for point in curve.points])) < 0.01
    assert CostCurve.model_validate_json(curve.model_dump_json()) == curve


def test_equal_requests_cost_what_the_cascades_formula_says() -> None:
    predictions = [prediction(confidence=i / 10) for i in range(10)]
    curve = cost_curve(predictions, against="teacher", threshold=0.4, prices=PRICES)
    tokens = Tokens(prompt=100, completion=2)
    expected = costs(teacher=tokens, student=tokens, fallback_rate=0.4, prices=PRICES)
    assert curve.chosen.cost == pytest.approx(expected.cascade)
    assert (curve.teacher_cost, curve.student_cost) == (expected.teacher, expected.student)


def test_records_of_one_confidence_are_accepted_together() -> None:
    curve = cost_curve([prediction()] * 5, against="gold", threshold=0.5, prices=Prices(teacher_input=1))
    assert [point.coverage for point in curve.points] == [0, 1]
    assert curve.chosen.coverage == 1
    assert curve.unpriced == ("prices.teacher_output", "prices.student_input", "prices.student_output")


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="no records"):
        cost_curve([], against="teacher", threshold=None, prices=PRICES)
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        cost_curve([prediction(confidence=math.nan)], against="teacher", threshold=None, prices=PRICES)
    with pytest.raises(ValueError, match="has no gold"):
        cost_curve([prediction(gold=None)], against="gold", threshold=None, prices=PRICES)
