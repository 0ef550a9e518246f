"""The whole procedure, resampled a thousand times: the promise is broken no more often than it says.

What a score and its threshold accept, of a population whose answers are all known, is counted with NumPy.
"""

import numpy as np
import pytest
from calibration_made import recipe, spread, texts
from scipy.special import expit
from scipy.stats import binomtest

from stillhouse.calibration import calibrate, choose_thresholds, select
from stillhouse.calibration.select import FIXED
from stillhouse.confidence import FEATURES, FeatureScore, IsotonicScore, Score
from stillhouse.metrics import Prediction
from stillhouse.recipe.release import ScoreName

SETS = 1000
POPULATION = 5000
ALPHA, DELTA = 0.15, 0.1


class World:
    """Answers whose features, and whether they are right, are known; of their first `tokens` tokens alone."""

    def __init__(self, predictions: list[Prediction], tokens: int | None = None) -> None:
        self.predictions = predictions
        self.right = np.array([p.right("teacher") for p in predictions])
        told = [p.evidence for p in predictions if p.evidence]
        self.evidence = [evidence.first(tokens) if tokens else evidence for evidence in told]
        self.features = {
            name: np.array([feature.measure(evidence) for evidence in self.evidence])
            for name, feature in FEATURES.items()
            if told[0].alternatives or not feature.alternatives
        }

    def scores(self, score: Score) -> np.ndarray:
        """Of every answer, [population]; scores are data, read here by NumPy and SciPy."""
        if isinstance(score, FeatureScore):
            return np.vectorize(FEATURES[score.feature].unit)(self.features[score.feature])
        if isinstance(score, IsotonicScore):
            return np.interp(self.features[score.feature], *zip(*score.knots, strict=True))
        standardised = [t.weight * (self.features[t.feature] - t.mean) / t.scale for t in score.terms]
        return expit(score.intercept + np.sum(standardised, axis=0))

    def breaks(self, scores: np.ndarray, threshold: float) -> bool:
        """Whether the true error of what is accepted is more than was promised; nothing accepted breaks nothing."""
        accepted = scores >= threshold
        return bool(accepted.any() and np.mean(~self.right[accepted]) > ALPHA)

    def thresholds(self, score: Score, rng: np.random.Generator, sets: int, n: int) -> tuple[int, int]:
        """Of calibration sets of n answers: how many give a threshold for the score, and how many break the promise."""
        scores = self.scores(score)
        drawn = rng.integers(0, POPULATION, (sets, n))
        found = choose_thresholds(scores[drawn], self.right[drawn], alpha=ALPHA, delta=DELTA)
        found = found[~np.isnan(found)]
        return found.size, sum(self.breaks(scores, threshold) for threshold in found)


def kept(failed: int) -> bool:
    """Whether so many broken promises are no surprise: not one of the thousand rarest at a true rate of DELTA."""
    return bool(binomtest(failed, SETS, DELTA, alternative="greater").pvalue > 1e-3)


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    rng = np.random.default_rng(0)
    return {"texts": World(texts(rng, POPULATION)), "choices": World(spread(rng, POPULATION))}


@pytest.mark.parametrize("world", ["texts", "choices"])
@pytest.mark.parametrize("wanted", ["auto", "logistic", "isotonic"])
def test_a_score_from_other_records_keeps_the_promise(worlds: dict[str, World], world: str, wanted: ScoreName) -> None:
    """Few records to fit on, so that the fits are bad ones too."""
    made, rng = worlds[world], np.random.default_rng(1)
    found = failed = 0
    fits = 20
    for seed in range(fits):
        answers = [(made.evidence[i], bool(made.right[i])) for i in rng.integers(0, POPULATION, 60)]
        score = select(answers, wanted, n_fit=60, seed=seed).score
        given, wrong = made.thresholds(score, rng, SETS // fits, 200)
        found, failed = found + given, failed + wrong
    assert found > 0.2 * SETS, "a procedure that finds nothing keeps every promise"
    assert kept(failed), f"{failed} of {SETS}"


def test_as_the_evaluation_calls_it_the_promise_is_kept(worlds: dict[str, World]) -> None:
    """Split, fit and threshold anew for each calibration set."""
    world, rng = worlds["texts"], np.random.default_rng(2)
    made = recipe(score="isotonic", alpha=ALPHA, delta=DELTA)
    found = failed = 0
    for _ in range(SETS):
        calibrated = calibrate([world.predictions[i] for i in rng.integers(0, POPULATION, 300)], made)
        if (threshold := calibrated.calibration.threshold) is not None:
            found += 1
            failed += world.breaks(world.scores(calibrated.selection.score), threshold)
    assert found > 0.2 * SETS
    assert kept(failed), f"{failed} of {SETS}"


@pytest.mark.parametrize("name", ["sequence_probability", "mean_logprob", "length"])
def test_a_window_keeps_a_promise_about_the_whole_answer(name: str) -> None:
    world = World(texts(np.random.default_rng(4), POPULATION), tokens=6)
    _, failed = world.thresholds(FIXED[name], np.random.default_rng(5), SETS, 300)
    assert kept(failed), f"{failed} of {SETS}"
