"""Features against NumPy, SciPy, and what they mean for the choices."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy

from stillhouse.confidence import FEATURES, Evidence

logprobs = st.lists(st.floats(min_value=-50, max_value=0), min_size=1, max_size=12)


def measure(name: str, evidence: Evidence) -> float:
    return FEATURES[name].measure(evidence)  # type: ignore[index]


@given(logprobs)
def test_what_the_tokens_tell_is_numpys(values: list[float]) -> None:
    evidence = Evidence.of(values)
    expected = {
        "sum_logprob": np.sum(values),
        "mean_logprob": np.mean(values),
        "min_logprob": np.min(values),
        "quantile_10": np.quantile(values, 0.10),
        "quantile_25": np.quantile(values, 0.25),
        "quantile_50": np.quantile(values, 0.50),
        "length": len(values),
    }
    assert set(expected) == {name for name, feature in FEATURES.items() if not feature.alternatives}
    for name, value in expected.items():
        assert measure(name, evidence) == pytest.approx(value, abs=1e-9), name


def told(*positions: list[float]) -> Evidence:
    """An answer of the likeliest tokens, by the probabilities at each position."""
    return Evidence.of(
        [math.log(max(position)) for position in positions],
        [[math.log(probability) if probability else -math.inf for probability in position] for position in positions],
    )


def test_the_margin_is_that_of_the_least_certain_position() -> None:
    assert measure("margin", told([0.9, 0.1], [0.4, 0.35, 0.25])) == pytest.approx(0.05)
    assert measure("margin", told([0.9, 0.1], [1.0, 0.0])) == pytest.approx(0.8)
    assert measure("margin", told([1.0])) == 1


def test_the_entropy_of_one_decision_is_scipys() -> None:
    spread = [0.5, 0.3, 0.15, 0.05]
    assert measure("entropy", told(spread, [1.0])) == pytest.approx(scipy_entropy(spread))
    # What the alternatives leave out is one more token.
    assert measure("entropy", told([0.5, 0.3])) == pytest.approx(scipy_entropy([0.5, 0.3, 0.2]))


def test_the_mean_entropy_of_drawn_answers_is_the_entropy_over_the_choices() -> None:
    """The chain rule, on three choices of which two begin alike."""
    first, second = [0.7, 0.3], [0.1, 0.9]
    answers = {0.7: told(first, [1.0]), 0.3 * 0.1: told(first, second), 0.3 * 0.9: told(first, second)}
    drawn = sum(probability * measure("entropy", evidence) for probability, evidence in answers.items())
    assert drawn == pytest.approx(scipy_entropy(list(answers)))


@pytest.mark.parametrize("name", ["margin", "entropy"])
def test_what_is_made_from_alternatives_needs_them(name: str) -> None:
    with pytest.raises(ValueError, match="without its alternatives"):
        measure(name, Evidence.of([-0.1]))


positions = st.lists(st.lists(st.floats(0.01, 1), min_size=1, max_size=4), min_size=1, max_size=8)


@given(positions)
def test_trends_and_units_are_what_they_say(weights: list[list[float]]) -> None:
    evidence = told(*([w / sum(position) for w in position] for position in weights))
    prefixes = [evidence.first(tokens) for tokens in range(1, len(weights) + 1)]
    for feature in FEATURES.values():
        values = [feature.measure(prefix) for prefix in prefixes]
        steps = np.diff(values)
        if feature.trend == "falls":
            assert (steps <= 0).all()
        elif feature.trend == "rises":
            assert (steps >= 0).all()
        else:
            assert max(values) <= 0
        units = [feature.unit(value) for value in values]
        assert all(0 <= unit <= 1 for unit in units)
        surer = np.argsort(values)[:: -1 if feature.trend == "rises" else 1]
        assert (np.diff(np.array(units)[surer]) >= 0).all(), "the surer, the greater"
