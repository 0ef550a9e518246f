"""The score is picked by its risk-coverage curve, fitted as scikit-learn fits, and held as data."""

import itertools
import math

import numpy as np
import pytest
from calibration_made import TEXT, THREE, TWO, recipe, spread, texts
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stillhouse.calibration.select import fixed, records_to_fit, select
from stillhouse.confidence import FEATURES, Evidence, FeatureScore, IsotonicScore, LogisticScore
from stillhouse.metrics import Prediction, area_under_risk_coverage
from stillhouse.recipe.release import ScoreName


def answers(predictions: list[Prediction]) -> list[tuple[Evidence, bool]]:
    return [(p.evidence, p.right("teacher")) for p in predictions if p.evidence is not None]


def test_the_area_is_the_mean_risk_over_coverages_by_hand() -> None:
    # Risks at coverages 1/4 … 1: 0, 0, 1/3, 1/2.
    found = area_under_risk_coverage(np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, True, False, False]))
    assert found == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)


def test_ties_count_as_the_mean_over_all_their_orders() -> None:
    scores, correct = np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.2]), np.array([True, False, True, False, True, False])
    areas = []
    for order in itertools.permutations(range(1, 5)):
        ranked = correct[[0, *order, 5]]
        areas.append(np.mean(np.cumsum(~ranked) / np.arange(1, 7)))
    assert area_under_risk_coverage(scores, correct) == pytest.approx(np.mean(areas))


def test_a_score_that_knows_nothing_has_the_share_of_wrong_answers() -> None:
    correct = np.array([True, True, False, True])
    assert area_under_risk_coverage(np.full(4, 0.3), correct) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("n", "score", "task", "n_fit"),
    [
        (399, "auto", TEXT, 0),
        (400, "auto", TEXT, 133),
        (4000, "auto", THREE, 1333),
        (4000, "auto", TWO, 0),
        (4000, "sequence_probability", TEXT, 0),
        (4000, "margin", THREE, 0),
        (90, "logistic", TWO, 30),
        (90, "isotonic", TEXT, 30),
    ],
)
def test_who_picks_does_not_test(n: int, score: ScoreName, task: dict[str, object], n_fit: int) -> None:
    assert records_to_fit(n, score, recipe(task).task) == n_fit


def test_a_fixed_score_needs_no_records() -> None:
    assert fixed("margin", 10, recipe(THREE).task).score == FeatureScore(feature="margin")
    told = fixed("auto", 4000, recipe(TWO).task)
    assert (told.score.name, told.n_fit) == ("sequence_probability", 0)
    assert "Two choices" in told.why
    assert "there are 10" in fixed("auto", 10, recipe(TEXT).task).why


def test_auto_picks_what_ranks_best() -> None:
    """Where long texts are as good as short ones, the sum of their logprobs is a poor judge."""
    found = select(answers(texts(np.random.default_rng(0), 600)), "auto", n_fit=600, seed=0)
    areas = {candidate.name: candidate.area for candidate in found.candidates}
    assert areas[found.score.name] == min(areas.values())
    assert found.score.name != "sequence_probability"
    assert areas["mean_logprob"] < areas["sequence_probability"] < found.chance
    assert set(areas) == {"sequence_probability", *FEATURES, "isotonic", "logistic"} - {
        "sum_logprob",
        "margin",
        "entropy",
    }


def test_with_alternatives_their_features_take_part() -> None:
    found = select(answers(spread(np.random.default_rng(1), 400)), "auto", n_fit=400, seed=0)
    assert {"margin", "entropy"} <= {candidate.name for candidate in found.candidates}


def test_of_equally_good_scores_the_plainest_is_picked() -> None:
    """Answers of one token: all features but the length rank alike, and what is fitted only adds ties."""
    rng = np.random.default_rng(2)
    told = [(Evidence.of([math.log(p)]), bool(rng.random() < p)) for p in rng.uniform(0.3, 1, 300)]
    found = select(told, "auto", n_fit=300, seed=0)
    areas = {candidate.name: candidate.area for candidate in found.candidates}
    assert areas["mean_logprob"] == pytest.approx(areas["sequence_probability"], abs=1e-12)
    assert found.score.name in {"sequence_probability", "isotonic", "logistic"}


def test_logistic_is_scikit_learns() -> None:
    told = answers(spread(np.random.default_rng(3), 300))
    score = select(told, "logistic", n_fit=300, seed=0).score
    assert isinstance(score, LogisticScore)
    columns = np.array([[feature.measure(evidence) for feature in FEATURES.values()] for evidence, _ in told])
    correct = [right for _, right in told]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(columns, correct)
    expected = model.predict_proba(columns)[:, 1]
    assert [score(evidence) for evidence, _ in told] == pytest.approx(expected, abs=1e-6)
    assert "length" not in score.used, "all answers have two tokens"


@pytest.mark.parametrize("made", [texts, spread])
def test_isotonic_is_scikit_learns_on_the_best_feature(made: object) -> None:
    assert callable(made)
    told = answers(made(np.random.default_rng(4), 300))
    score = select(told, "isotonic", n_fit=300, seed=0).score
    assert isinstance(score, IsotonicScore)
    values = [FEATURES[score.feature].measure(evidence) for evidence, _ in told]
    rises = FEATURES[score.feature].trend == "rises"
    model = IsotonicRegression(increasing=not rises).fit(values, [right for _, right in told])
    assert [score(evidence) for evidence, _ in told] == pytest.approx(model.predict(values), abs=1e-9)


def test_the_same_seed_picks_the_same() -> None:
    told = answers(texts(np.random.default_rng(5), 200))
    assert select(told, "auto", n_fit=200, seed=3) == select(told, "auto", n_fit=200, seed=3)


@pytest.mark.parametrize(("right", "told"), [(True, "0 wrong answers"), (False, "0 right answers")])
def test_without_mistakes_nothing_can_be_learned(right: bool, told: str) -> None:
    same = [(Evidence.of([-0.1 * i]), right) for i in range(50)]
    with pytest.raises(ValueError, match=rf"`evaluation.score: logistic` cannot be fitted: .* {told}"):
        select(same, "logistic", n_fit=50, seed=0)
    found = select(same, "auto", n_fit=50, seed=0)
    assert found.score.name == "sequence_probability"
    assert told in found.why


def test_features_that_do_not_vary_fit_to_a_constant() -> None:
    same = [(Evidence.of([-0.5]), i % 4 != 0) for i in range(40)]
    score = select(same, "logistic", n_fit=40, seed=0).score
    assert score(Evidence.of([-0.5])) == pytest.approx(0.75)
    assert select(same, "auto", n_fit=40, seed=0).score.name == "sequence_probability"
