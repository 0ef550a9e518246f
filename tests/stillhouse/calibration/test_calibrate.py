"""The calibration split as a whole: who fits, who tests, what is warned of, and the windows."""

from typing import Any

import numpy as np
import pytest
from calibration_made import THREE, prediction, recipe, spread, sure, texts

from stillhouse.calibration import calibrate, choose_threshold
from stillhouse.calibration.calibrate import Calibrated
from stillhouse.confidence import SEQUENCE_PROBABILITY, Evidence
from stillhouse.metrics import Prediction, expected_calibration_error


def test_it_judges_by_the_reference_asked_for() -> None:
    records = [sure(0.9, gold="no" if i < 40 else "yes") for i in range(100)]
    by_teacher = calibrate(records, recipe(against="teacher")).calibration
    data = {"path": "data.jsonl", "label": "label"}
    by_gold = calibrate(
        records,
        recipe(against="teacher").model_copy(
            update={
                "data": recipe().data.model_validate(data),
                "evaluation": recipe().evaluation.model_copy(update={"against": "gold"}),
            }
        ),
    ).calibration
    assert (by_teacher.threshold, by_teacher.wrong) == (0.9, 0)
    assert by_gold.threshold is None


def test_records_without_gold_are_named() -> None:
    made = recipe()
    by_gold = made.model_copy(update={"evaluation": made.evaluation.model_copy(update={"against": "gold"})})
    with pytest.raises(ValueError, match="Record r0 has no gold answer"):
        calibrate([sure(0.9, id="r0")], by_gold)


def test_a_fixed_score_tests_the_threshold_on_all_records() -> None:
    records = texts(np.random.default_rng(0), 900)
    found = calibrate(records, recipe(score="mean_logprob", alpha=0.2))
    expected = choose_threshold(
        np.array([np.exp(np.mean(p.evidence.token_logprobs)) for p in records if p.evidence]),
        np.array([p.student == p.teacher for p in records]),
        alpha=0.2,
        delta=0.05,
    )
    assert (found.selection.n_fit, found.calibration) == (0, expected)


def test_the_records_that_fit_never_test() -> None:
    """Whatever the answers of the testing part are, the score stays the same."""
    records = texts(np.random.default_rng(1), 600)
    found = calibrate(records, recipe())
    assert (found.selection.n_fit, found.calibration.n) == (200, 400)
    mended = [prediction(p.evidence, right=True, id=p.id) for p in records]
    order = np.random.default_rng(0).permutation(600)
    mixed = [mended[i] if i in set(order[200:].tolist()) else records[i] for i in range(600)]
    again = calibrate(mixed, recipe())
    assert again.selection == found.selection
    assert again.calibration.accepted > found.calibration.accepted


def test_the_seed_draws_the_parts() -> None:
    records = texts(np.random.default_rng(2), 600)
    assert calibrate(records, recipe()) == calibrate(records, recipe())
    other = recipe().model_copy(update={"seed": 1})
    assert calibrate(records, other).selection != calibrate(records, recipe()).selection


def test_calibration_errors_are_of_the_records_that_test() -> None:
    records = texts(np.random.default_rng(3), 900)
    found = calibrate(records, recipe(score="logistic"))
    testing = [records[i] for i in np.sort(np.random.default_rng(0).permutation(900)[300:])]
    right = np.array([p.student == p.teacher for p in testing])
    raw = np.array([SEQUENCE_PROBABILITY(p.evidence) for p in testing if p.evidence])
    assert found.error_before == pytest.approx(expected_calibration_error(raw, right))
    fitted = np.array([found.confidence(p) for p in testing])
    assert found.error_after == pytest.approx(expected_calibration_error(fitted, right))
    assert found.error_after < found.error_before / 3, "a text's probability says nothing of being right"


def test_answers_that_the_gateway_would_not_trust_have_no_confidence() -> None:
    told = Evidence.of([-0.01])
    found = calibrate([sure(0.99)] * 100, recipe())
    assert found.confidence(prediction(told, right=True)) == pytest.approx(0.990, abs=1e-3)
    assert found.confidence(prediction(told, right=False, student=None)) == 0
    assert found.confidence(prediction(None, right=True)) == 0
    assert [p.confidence for p in found.rescored([sure(0.5), prediction(None, right=True)])] == [0.5, 0]


def test_what_cannot_go_out_alone_neither_fits_nor_is_accepted() -> None:
    broken = [prediction(p.evidence, right=False, student=None, id=p.id) for p in texts(np.random.default_rng(4), 300)]
    good = texts(np.random.default_rng(5), 600)
    mixed = [each for trio in zip(good[::2], good[1::2], broken, strict=True) for each in trio]
    found = calibrate(mixed, recipe(alpha=0.25))
    assert found.calibration.threshold is not None
    assert found.calibration.threshold > 0
    assert found.calibration.accepted <= 400


def warned(records: list[Prediction], **evaluation: Any) -> str:
    return "\n".join(calibrate(records, recipe(**evaluation)).warnings)


def test_warnings_are_single_sentences() -> None:
    few = [sure(0.5 + i / 200) for i in range(99)]
    assert warned(few).startswith("There are only 99 calibration records, and 100 are the least to count on")
    assert warned([*few, sure(0.4)]) == ""
    assert warned([sure(0.9)] * 200) == (
        "All 200 calibration scores are 0.9, so that the score tells no answer from another: the student may give all"
        " of them alone, or none."
    )
    rng = np.random.default_rng(6)
    blind = [prediction(Evidence.of([-1.0]), right=bool(rng.random() < 0.8)) for _ in range(500)]
    assert "No score puts right answers before wrong ones" in warned(blind)


def test_no_records_are_refused() -> None:
    with pytest.raises(ValueError, match="no records"):
        calibrate([], recipe())


def windowed(records: list[Prediction], **evaluation: Any) -> tuple[Calibrated, dict[int, Calibrated]]:
    found = calibrate(records, recipe(windows=[4, 12], **evaluation))
    return found, found.windows


def test_each_window_is_a_statistic_of_its_own() -> None:
    records = texts(np.random.default_rng(7), 1500)
    whole, windows = windowed(records, alpha=0.15, score="mean_logprob")
    assert list(windows) == [4, 12]
    for tokens, window in windows.items():
        means = [np.mean(p.evidence.token_logprobs[:tokens]) for p in records if p.evidence]
        expected = choose_threshold(
            np.exp(means), np.array([p.student == p.teacher for p in records]), alpha=0.15, delta=0.05
        )
        assert window.calibration == expected
        assert window.tokens == tokens
    thresholds = [each.calibration.threshold for each in (whole, *windows.values())]
    assert len(set(thresholds)) > 1
    # What comes after the window has no say.
    short = prediction(Evidence.of([-0.1] * 4), right=True)
    longer = prediction(Evidence.of([*[-0.1] * 4, -9.0]), right=True)
    assert windows[4].confidence(short) == windows[4].confidence(longer)
    assert windows[12].confidence(short) > windows[12].confidence(longer)


def test_windows_pick_their_own_scores_on_the_same_part() -> None:
    whole, windows = windowed(texts(np.random.default_rng(8), 900), alpha=0.2)
    assert {each.selection.n_fit for each in (whole, *windows.values())} == {300}
    areas = [min(c.area for c in each.selection.candidates) for each in (whole, *windows.values())]
    assert areas[0] < areas[1], "four tokens know less than all"


def test_choices_with_alternatives_use_them() -> None:
    found = calibrate(spread(np.random.default_rng(9), 900), recipe(THREE, score="entropy", alpha=0.2))
    assert found.selection.score.needs_alternatives
    assert found.calibration.threshold is not None
