"""Scores are plain data, decide as the libraries that fitted them would, and bound what is to come."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.special import expit

from stillhouse.confidence import (
    FEATURES,
    SEQUENCE_PROBABILITY,
    Evidence,
    FeatureScore,
    IsotonicScore,
    LogisticScore,
    Score,
    Term,
)

SCORES: TypeAdapter[Score] = TypeAdapter(Score)


def logistic(**weights: float) -> LogisticScore:
    terms: list[Any] = [Term(feature=name, mean=-1.0, scale=2.0, weight=weight) for name, weight in weights.items()]
    return LogisticScore(intercept=0.5, terms=tuple(terms))


EXAMPLES: list[Score] = [
    *(FeatureScore(feature=name) for name in FEATURES),
    logistic(sum_logprob=1.5, length=-0.2, entropy=-1.0),
    logistic(mean_logprob=1.5, min_logprob=0.0),
    logistic(mean_logprob=-1.5, length=0.3),
    IsotonicScore(feature="sum_logprob", knots=((-5.0, 0.1), (-1.0, 0.4), (-0.5, 0.4), (0.0, 0.95))),
    IsotonicScore(feature="entropy", knots=((0.0, 1.0), (0.5, 0.8), (3.0, 0.2))),
    IsotonicScore(feature="quantile_10", knots=((-2.0, 0.5),)),
]


def test_the_sequence_probability_is_the_product_of_the_token_probabilities() -> None:
    assert SEQUENCE_PROBABILITY(Evidence.of([math.log(0.5), math.log(0.8)])) == pytest.approx(0.4)
    assert SEQUENCE_PROBABILITY(Evidence.of([0.0])) == 1.0
    assert SEQUENCE_PROBABILITY(Evidence.of([-0.1, -math.inf])) == 0.0


def test_the_sequence_probabilities_of_all_choices_sum_to_one() -> None:
    """Three choices of different lengths under a mask: each is the product along its own path."""
    paths = ([math.log(0.7), 0.0], [math.log(0.3), math.log(0.1)], [math.log(0.3), math.log(0.9)])
    assert sum(SEQUENCE_PROBABILITY(Evidence.of(path)) for path in paths) == pytest.approx(1)


def test_a_logistic_score_is_scipys_sigmoid_of_standardised_features() -> None:
    evidence = Evidence.of([-0.5, -0.25])
    odds = 0.5 + 1.5 * (-0.75 + 1) / 2 - 0.2 * (2 + 1) / 2
    assert logistic(sum_logprob=1.5, length=-0.2)(evidence) == pytest.approx(expit(odds))
    far = LogisticScore(intercept=-2000.0, terms=())
    assert (far(evidence), far.model_copy(update={"intercept": 2000.0})(evidence)) == (0.0, 1.0)


@given(st.floats(-8, 0))
def test_an_isotonic_score_is_numpys_interpolation(value: float) -> None:
    score = EXAMPLES[-3]
    assert isinstance(score, IsotonicScore)
    expected = np.interp(value, *zip(*score.knots, strict=True))
    assert score(Evidence.of([value])) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("score", EXAMPLES, ids=lambda score: f"{score.name} {score.used[-1]}")
def test_a_score_survives_json(score: Score) -> None:
    assert SCORES.validate_json(SCORES.dump_json(score)) == score


def answers() -> st.SearchStrategy[Evidence]:
    position = st.lists(st.floats(0.01, 1), min_size=1, max_size=4)

    def made(weights: list[list[float]]) -> Evidence:
        spread = [sorted((w / sum(each) for w in each), reverse=True) for each in weights]
        return Evidence.of([math.log(each[0]) for each in spread], [[math.log(p) for p in each] for each in spread])

    return st.lists(position, min_size=1, max_size=8).map(made)


@given(answers(), st.data())
def test_nothing_that_is_to_come_exceeds_the_bound(answer: Evidence, data: st.DataObject) -> None:
    score: Score = data.draw(st.sampled_from(EXAMPLES))
    prefix = answer.first(data.draw(st.integers(1, len(answer.token_logprobs))))
    bound = score.upper_bound(prefix)
    assert 0 <= score(answer) <= bound + 1e-12
    assert bound <= 1
    if score.falls:
        assert bound == score(prefix), "tight"


def test_which_scores_can_only_fall() -> None:
    falling = {name for name in FEATURES if FeatureScore(feature=name).falls}
    assert falling == {"sum_logprob", "min_logprob", "margin", "entropy", "length"}
    assert logistic(sum_logprob=1.0, entropy=-1.0).falls
    assert not logistic(sum_logprob=1.0, entropy=1.0).falls
    assert not logistic(sum_logprob=1.0, mean_logprob=1.0).falls
    # A weight against the feature's sense can raise the score without end.
    assert logistic(sum_logprob=1.0, length=1.0).upper_bound(Evidence.of([-9.0])) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "feature", "feature": "vibes"}, "feature"),
        ({"kind": "pickle"}, "kind"),
        ({"kind": "isotonic", "feature": "margin", "knots": [[0, 0.5], [0, 0.6]]}, "must ascend"),
        ({"kind": "isotonic", "feature": "margin", "knots": [[0, 0.5], [1, 0.4]]}, "monotone"),
        ({"kind": "isotonic", "feature": "entropy", "knots": [[0, 0.5], [1, 0.6]]}, "monotone"),
        ({"kind": "isotonic", "feature": "margin", "knots": [[0, 1.5]]}, "0..1"),
        ({"kind": "logistic", "intercept": math.nan, "terms": []}, "finite"),
        (
            {"kind": "logistic", "intercept": 0, "terms": [{"feature": "margin", "mean": 0, "scale": 0, "weight": 1}]},
            "greater than 0",
        ),
    ],
)
def test_malformed_data_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SCORES.validate_python(data)
