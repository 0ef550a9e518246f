"""The threshold's promise holds at its stated rate, and is never made where it cannot be."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from stillhouse.calibration import (
    GRID,
    Calibration,
    choose_threshold,
    choose_thresholds,
    first_sample,
    smallest_sample,
)

RESAMPLES = 1000


def population(
    seed: int, scores: Callable[[np.random.Generator, int], np.ndarray], error: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """20,000 records [n] whose true risk at every threshold is known by counting: confidence and correct."""
    rng = np.random.default_rng(seed)
    confidence = scores(rng, 20_000)
    return confidence, rng.random(20_000) >= error(confidence)


def resampled(confidence: np.ndarray, correct: np.ndarray, *, n: int, alpha: float, delta: float) -> tuple[int, int]:
    """Of RESAMPLES calibration sets of n records, how many give a threshold, and how many break the promise."""
    drawn = np.random.default_rng(1).integers(0, confidence.size, (RESAMPLES, n))
    thresholds = choose_thresholds(confidence[drawn], correct[drawn], alpha=alpha, delta=delta)
    found = thresholds[~np.isnan(thresholds)]
    risks = {t: np.mean(~correct[confidence >= t]) for t in np.unique(found)}
    return found.size, sum(bool(risks[t] > alpha) for t in found)


WORLDS = {
    # The risk crosses alpha half way: the usual case.
    "calibrated": (lambda rng, n: rng.uniform(0.5, 1, n), lambda s: 1 - s),
    # Few very confident records, and the risk just above alpha from the strictest threshold on: every
    # threshold breaks the promise, and the first one tested depends on how many scores happen to be high.
    "all above alpha": (lambda rng, n: rng.beta(6, 1, n), lambda s: 0.105 + 0 * s),
    # The strictest thresholds break the promise by a little and records there are about as many as the start asks.
    "worse at the top": (lambda rng, n: rng.random(n), lambda s: np.where(s > 0.85, 0.13, 0.095)),
    # Scores of an engine that rounds: five distinct values.
    "plateaus": (
        lambda rng, n: rng.choice([0.0, 0.05, 0.91, 0.92], n, p=[0.1, 0.4, 0.2, 0.3]),
        lambda s: 0.2 - 0.12 * s,
    ),
    # Sure of everything, and right half of the time: what a student does outside what it has learned.
    "overconfident": (lambda rng, n: 1 - 1e-3 * rng.random(n), lambda s: 0.4 - 0.35 * (s > 0.9995)),
    # The probability of a long text: no one would call 1e-9 sure, and the order is right all the same.
    "tiny": (lambda rng, n: 10.0 ** -rng.uniform(2, 20, n), lambda s: -np.log10(s) / 100),
    "ties": (lambda rng, n: rng.choice([0.5, 0.7, 0.9, 0.99, 1.0], n), lambda s: 0.3 * (1 - s) + 0.06),
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("n", [40, 120, 500])
def test_the_promise_is_broken_no_more_often_than_delta(world: str, n: int) -> None:
    confidence, correct = population(0, *WORLDS[world])
    _, broken = resampled(confidence, correct, n=n, alpha=0.1, delta=0.1)
    # Fails when so many broken promises would be seen in less than 1 of 1,000 tries at a true rate of delta.
    assert binomtest(broken, RESAMPLES, 0.1, alternative="greater").pvalue > 1e-3, f"{broken} of {RESAMPLES}"


def test_the_promise_is_not_bought_with_idleness() -> None:
    """A procedure that never finds a threshold, or accepts next to nothing, would keep every promise."""
    confidence, correct = population(0, *WORLDS["calibrated"])
    found, broken = resampled(confidence, correct, n=2000, alpha=0.1, delta=0.1)
    assert found > 0.95 * RESAMPLES
    assert broken > 0.01 * RESAMPLES  # it goes close to the bound

    # The risk above t is (1 - t) / 2, so alpha allows t = 0.8, which accepts 40% of the records.
    drawn = np.random.default_rng(2).integers(0, confidence.size, (50, 5000))
    thresholds = choose_thresholds(confidence[drawn], correct[drawn], alpha=0.1, delta=0.1)
    coverages = [np.mean(confidence >= threshold) for threshold in thresholds]
    assert 0.33 < np.mean(coverages) < 0.4


def test_tiny_probabilities_that_rank_well_find_a_threshold() -> None:
    confidence, correct = population(0, *WORLDS["tiny"])
    found, _ = resampled(confidence, correct, n=500, alpha=0.1, delta=0.1)
    assert found > 0.8 * RESAMPLES


def sequence_test(confidence: np.ndarray, correct: np.ndarray, alpha: float, delta: float) -> float | None:
    """Learn then Test in so many words: each threshold by SciPy's exact binomial test, until one is not rejected."""
    fewest = next(n for n in range(1, 10_000) if binomtest(0, n, alpha, alternative="less").pvalue <= delta)
    start = max(fewest, min(3 * fewest, confidence.size // 4))
    chosen = None
    for threshold in sorted(GRID, reverse=True):
        accepted = confidence >= threshold
        if accepted.sum() < start:
            continue
        wrong = int((accepted & ~correct).sum())
        if binomtest(wrong, int(accepted.sum()), alpha, alternative="less").pvalue > delta:
            break
        chosen = threshold
    if chosen is None:
        return None
    same = (confidence >= chosen).sum()
    return max(t for t in GRID if (confidence >= t).sum() == same)


@pytest.mark.parametrize("world", WORLDS)
def test_it_is_the_sequence_of_binomial_tests(world: str) -> None:
    confidence, correct = population(5, *WORLDS[world])
    for n, alpha, delta in ((60, 0.2, 0.1), (300, 0.12, 0.2), (900, 0.1, 0.05)):
        found = choose_threshold(confidence[:n], correct[:n], alpha=alpha, delta=delta).threshold
        assert found == sequence_test(confidence[:n], correct[:n], alpha, delta), (n, alpha)


def test_many_sets_at_once_are_one_after_another() -> None:
    confidence, correct = population(6, *WORLDS["calibrated"])
    sets = confidence[:2000].reshape(8, 250), correct[:2000].reshape(8, 250)
    together = choose_thresholds(*sets, alpha=0.08, delta=0.1)
    alone = [choose_threshold(*each, alpha=0.08, delta=0.1).threshold for each in zip(*sets, strict=True)]
    assert any(each is None for each in alone)
    assert [None if np.isnan(each) else each for each in together] == alone


def test_the_chosen_threshold_rejects_and_the_next_one_on_the_grid_does_not() -> None:
    confidence, correct = population(3, *WORLDS["calibrated"])
    confidence, correct = confidence[:1000], correct[:1000]
    calibration = choose_threshold(confidence, correct, alpha=0.12, delta=0.1)
    assert calibration.threshold in GRID

    def p_value(threshold: float) -> float:
        accepted = confidence >= threshold
        wrong = int((~correct[accepted]).sum())
        return float(binomtest(wrong, int(accepted.sum()), 0.12, alternative="less").pvalue)

    next_lower = max(t for t in GRID if t < calibration.threshold)
    assert calibration.p_value == pytest.approx(p_value(calibration.threshold))
    assert p_value(calibration.threshold) <= 0.1 < p_value(next_lower)
    assert calibration.accepted == int((confidence >= calibration.threshold).sum())
    assert calibration.wrong == int((~correct[confidence >= calibration.threshold]).sum())


@pytest.mark.parametrize(("alpha", "delta", "n"), [(0.1, 0.05, 29), (0.05, 0.1, 45), (0.5, 0.25, 2), (0.1, 0.9, 1)])
def test_smallest_sample_is_the_least_that_can_be_rejected_without_an_error(alpha: float, delta: float, n: int) -> None:
    assert smallest_sample(alpha, delta) == n
    assert (1 - alpha) ** n <= delta
    assert n == 1 or (1 - alpha) ** (n - 1) > delta


def test_the_start_of_the_sequence_asks_for_no_more_than_there_is() -> None:
    assert first_sample(10, 0.1, 0.05) == 29
    assert first_sample(200, 0.1, 0.05) == 50
    assert first_sample(10_000, 0.1, 0.05) == 87


records = st.lists(
    st.tuples(st.sampled_from([0.2, 0.5, 0.9, 0.95, 0.999, 1.0]), st.booleans()), min_size=1, max_size=80
)


@settings(max_examples=60, deadline=None)
@given(records=records, data=st.data())
def test_mending_a_wrong_answer_never_shrinks_what_is_accepted(
    records: list[tuple[float, bool]], data: st.DataObject
) -> None:
    confidence = np.array([score for score, _ in records])
    correct = np.array([right for _, right in records])
    mended = correct.copy()
    mended[data.draw(st.integers(0, len(records) - 1))] = True
    before = choose_threshold(confidence, correct, alpha=0.3, delta=0.2)
    after = choose_threshold(confidence, mended, alpha=0.3, delta=0.2)
    assert after.accepted >= before.accepted


@pytest.mark.parametrize("seed", range(5))
def test_a_larger_delta_never_accepts_less(seed: int) -> None:
    """Only where both start at the same count: n is small enough for both to start at a quarter of it."""
    confidence, correct = population(seed, *WORLDS["calibrated"])
    accepted = [
        choose_threshold(confidence[:200], correct[:200], alpha=0.1, delta=delta).accepted
        for delta in (0.02, 0.05, 0.1)
    ]
    starts = {first_sample(200, 0.1, delta) for delta in (0.02, 0.05, 0.1)}
    assert starts == {50}
    assert accepted == sorted(accepted)


def test_too_few_records_promise_nothing_and_name_the_nearest_promise() -> None:
    calibration = choose_threshold(np.full(10, 0.9), np.ones(10, dtype=bool), alpha=0.1, delta=0.05)
    assert calibration.threshold is None
    assert (calibration.accepted, calibration.coverage, calibration.p_value) == (0, None, None)
    assert (calibration.n, calibration.n_min) == (10, 29)
    # Ten answers without an error: (1 - alpha)^10 <= 0.05 from alpha = 0.2589 on.
    assert calibration.nearest is not None
    assert calibration.nearest.alpha == pytest.approx(0.26)
    assert calibration.nearest.threshold == 0.9
    assert calibration.nearest.coverage.value == 1


def test_the_nearest_promise_can_be_had_by_asking_for_it() -> None:
    confidence, correct = population(4, *WORLDS["calibrated"])
    confidence, correct = confidence[:200], correct[:200]
    refused = choose_threshold(confidence, correct, alpha=0.01, delta=0.05)
    assert refused.threshold is None
    assert refused.nearest is not None
    granted = choose_threshold(confidence, correct, alpha=refused.nearest.alpha, delta=0.05)
    assert (granted.threshold, granted.coverage) == (refused.nearest.threshold, refused.nearest.coverage)
    assert choose_threshold(confidence, correct, alpha=refused.nearest.alpha - 0.005, delta=0.05).threshold is None


def test_answers_that_are_all_wrong_have_no_nearest_promise() -> None:
    calibration = choose_threshold(np.full(50, 0.9), np.zeros(50, dtype=bool), alpha=0.1, delta=0.05)
    assert (calibration.threshold, calibration.nearest) == (None, None)


def test_all_equal_scores_are_one_decision() -> None:
    """The threshold stays at the scores that were tried, not at the bottom of the grid."""
    correct = np.ones(100, dtype=bool)
    correct[:3] = False
    calibration = choose_threshold(np.full(100, 0.7), correct, alpha=0.1, delta=0.05)
    assert (calibration.threshold, calibration.accepted, calibration.wrong) == (0.7, 100, 3)
    correct[:20] = False
    assert choose_threshold(np.full(100, 0.7), correct, alpha=0.1, delta=0.05).threshold is None


@pytest.mark.parametrize("score", [1e-29, 1.0])
def test_the_ends_of_the_scale_are_scores_like_others(score: float) -> None:
    calibration = choose_threshold(np.full(100, score), np.ones(100, dtype=bool), alpha=0.1, delta=0.05)
    assert calibration.threshold is not None
    assert (calibration.threshold <= score, calibration.accepted) == (True, 100)


def test_a_confidence_of_zero_never_goes_out_alone() -> None:
    assert choose_threshold(np.zeros(100), np.ones(100, dtype=bool), alpha=0.1, delta=0.05).threshold is None
    mixed = np.repeat([0.0, 0.4], [30, 100])
    calibration = choose_threshold(mixed, np.ones(130, dtype=bool), alpha=0.1, delta=0.05)
    assert (calibration.threshold, calibration.accepted) == (0.4, 100)


def test_the_grid_ascends_inside_the_scale() -> None:
    assert list(GRID) == sorted(set(GRID))
    assert (GRID[0], GRID[-1]) == (1e-30, 0.999999)


@pytest.mark.parametrize(
    ("confidence", "correct", "alpha", "delta", "message"),
    [
        ([0.5, float("nan")], [True, True], 0.1, 0.1, "NaN or outside 0..1"),
        ([0.5, 1.5], [True, True], 0.1, 0.1, "1 of 2 confidences"),
        ([0.5], [True, True], 0.1, 0.1, "shapes"),
        ([], [], 0.1, 0.1, "no records"),
        ([0.5], [True], 0.0, 0.1, "alpha and delta"),
        ([0.5], [True], 0.1, 1.0, "alpha and delta"),
    ],
)
def test_bad_input_is_refused(
    confidence: list[float], correct: list[bool], alpha: float, delta: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        choose_threshold(np.array(confidence), np.array(correct, dtype=bool), alpha=alpha, delta=delta)


def test_a_calibration_survives_json() -> None:
    for n in (10, 100):
        calibration = choose_threshold(np.full(n, 0.9), np.ones(n, dtype=bool), alpha=0.1, delta=0.05)
        assert Calibration.model_validate_json(calibration.model_dump_json()) == calibration
