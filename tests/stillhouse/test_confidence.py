"""The confidence of an answer is the probability of its tokens, or an error."""

import math

import pytest

from stillhouse.confidence import sequence_confidence


def test_it_is_the_product_of_the_token_probabilities() -> None:
    assert sequence_confidence([math.log(0.5), math.log(0.8)]) == pytest.approx(0.4)
    assert sequence_confidence([0.0]) == 1.0


def test_the_probabilities_of_all_choices_sum_to_one() -> None:
    """Three choices of different lengths under a mask: each is the product along its own path."""
    good, bad_then_ly, bad_then_end = (
        [math.log(0.7), 0.0],
        [math.log(0.3), math.log(0.1)],
        [math.log(0.3), math.log(0.9)],
    )
    assert sum(map(sequence_confidence, (good, bad_then_ly, bad_then_end))) == pytest.approx(1)


def test_rounding_above_zero_is_clipped_and_an_impossible_token_is_zero() -> None:
    assert sequence_confidence([1e-6, 0.0]) == 1.0
    assert sequence_confidence([-0.1, -math.inf]) == 0.0
    assert sequence_confidence([-2000.0]) == 0.0


@pytest.mark.parametrize(
    ("logprobs", "message"),
    [
        ([], "token_logprobs is empty"),
        ([-0.1, math.nan], "token 1 is NaN"),
        ([-0.1, 0.5], "token 1 is 0.5; a logprob cannot be above 0"),
        ([math.inf], "cannot be above 0"),
    ],
)
def test_what_is_no_logprob_is_no_confidence(logprobs: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sequence_confidence(logprobs)
