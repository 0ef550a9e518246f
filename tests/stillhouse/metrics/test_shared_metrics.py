"""Metrics against independent implementations (scikit-learn, closed forms) and by hand."""

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, confusion_matrix

from stillhouse.metrics import (
    Prediction,
    accuracy,
    agreement,
    confusion,
    expected_calibration_error,
    majority,
    proportion,
    risk_coverage,
)


def wilson(k: int, n: int) -> tuple[float, float]:
    """Wilson's interval from its formula, at z of 95%."""
    z = 1.959963984540054
    centre = (k + z * z / 2) / (n + z * z)
    half = z * math.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return centre - half, centre + half


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (1, 3), (76, 100), (152, 200), (1, 1)])
def test_a_proportion_has_wilsons_interval(k: int, n: int) -> None:
    estimate = proportion(k, n)
    low, high = wilson(k, n)
    assert (estimate.value, estimate.n) == (k / n, n)
    assert estimate.low == pytest.approx(low, abs=1e-9)
    assert estimate.high == pytest.approx(high, abs=1e-9)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_an_impossible_proportion_is_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError):
        proportion(k, n)


def test_accuracy_is_over_the_records_with_gold_and_counts_no_answer_as_wrong() -> None:
    estimate = accuracy(["a", "b", None, "a", None], ["a", "a", "a", None, None])
    assert estimate is not None
    assert (estimate.value, estimate.n) == (1 / 3, 3)
    assert accuracy(["a", "b"], [None, None]) is None
    with pytest.raises(ValueError):
        accuracy(["a"], ["a", "b"])


def test_two_that_give_no_answer_do_not_agree() -> None:
    assert agreement(["a", None, "b", None], ["a", None, "a", "b"]).value == 0.25


def test_majority_breaks_ties_by_the_alphabet_and_skips_missing_labels() -> None:
    found = majority(["b", "a", "b", "a", None])
    assert found is not None
    assert (found[0], found[1].value, found[1].n) == ("a", 0.5, 4)
    assert majority([None]) is None


def test_risk_coverage_by_hand() -> None:
    curve = risk_coverage(np.array([0.9, 0.5, 0.7, 0.7]), np.array([True, False, False, True]))
    assert curve.threshold.tolist() == [0.9, 0.7, 0.5]
    assert curve.coverage.tolist() == [0.25, 0.75, 1.0]
    assert curve.risk.tolist() == [0.0, 1 / 3, 0.5]
    assert (curve.accepted.tolist(), curve.wrong.tolist()) == ([1, 3, 4], [0, 1, 2])


def test_each_point_of_the_curve_is_what_its_threshold_accepts() -> None:
    rng = np.random.default_rng(0)
    confidence, correct = rng.integers(0, 30, 200) / 30, rng.random(200) < 0.7
    for threshold, coverage, risk, *_ in zip(*risk_coverage(confidence, correct), strict=True):
        accepted = confidence >= threshold
        assert coverage == pytest.approx(accepted.mean())
        assert risk == pytest.approx(1 - accuracy_score(np.ones(accepted.sum()), correct[accepted]))


@pytest.mark.parametrize("bins", [5, 15])
def test_calibration_error_is_what_sklearns_curve_sums_to(bins: int) -> None:
    rng = np.random.default_rng(1)
    confidence = rng.beta(3, 1, 500)
    correct = rng.random(500) < confidence**2
    truth, predicted = calibration_curve(correct, confidence, n_bins=bins)
    counts = np.histogram(confidence, bins=bins, range=(0, 1))[0]
    expected = np.abs(truth - predicted) @ counts[counts > 0] / 500
    assert expected_calibration_error(confidence, correct, bins=bins) == pytest.approx(expected)


def test_calibration_error_at_the_ends() -> None:
    ones = np.ones(4)
    assert expected_calibration_error(ones, ones.astype(bool)) == 0
    assert expected_calibration_error(ones, np.zeros(4, dtype=bool)) == 1


def test_confusion_is_sklearns_with_a_column_for_no_answer() -> None:
    rng = np.random.default_rng(2)
    labels = ["a", "b", "c"]
    truth = [labels[i] for i in rng.integers(0, 3, 100)]
    answers = [labels[i] for i in rng.integers(0, 3, 100)]
    counts = np.array(confusion(truth, answers, labels))
    assert (counts[:, :3] == confusion_matrix(truth, answers, labels=labels)).all()
    assert (counts[:, 3] == 0).all()
    assert confusion(["a", "b", None], [None, "z", "a"], ["a", "b"]) == [[0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize("metric", [risk_coverage, expected_calibration_error])
@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1, math.inf])
def test_a_score_that_is_no_probability_is_refused(metric: object, bad: float) -> None:
    assert callable(metric)
    with pytest.raises(ValueError, match=r"outside 0\.\.1.*record 1"):
        metric(np.array([0.5, bad]), np.array([True, True]))


def prediction(*, gold: str | None, teacher: str | None, student: str | None) -> Prediction:
    return Prediction(
        id="r1",
        text="",
        gold=gold,
        teacher=teacher,
        student=student,
        confidence=0.5,
        teacher_prompt_tokens=1,
        teacher_completion_tokens=1,
        student_prompt_tokens=1,
        student_completion_tokens=1,
    )


def test_a_prediction_is_right_by_its_reference_only() -> None:
    assert prediction(gold="b", teacher="a", student="a").right("teacher")
    assert not prediction(gold="b", teacher="a", student="a").right("gold")
    assert not prediction(gold="b", teacher=None, student=None).right("teacher")
    with pytest.raises(ValueError, match="r1 has no gold"):
        prediction(gold=None, teacher="a", student="a").right("gold")
