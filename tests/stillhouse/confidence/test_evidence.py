"""Evidence is made of logprobs, or it is an error; and how many alternatives are asked for."""

import math

import pytest

from stillhouse.confidence import Evidence
from stillhouse.confidence.alternatives import alternatives_asked
from stillhouse.confidence.evidence import FLOOR
from stillhouse.recipe import Task


def test_rounding_above_zero_is_clipped_and_minus_infinity_is_what_the_api_says() -> None:
    assert Evidence.of([1e-6, -0.5]).token_logprobs == (0.0, -0.5)
    assert Evidence.of([-0.1, -math.inf]) == Evidence.of([-0.1, -9999.0])


def test_alternatives_are_ranked_and_without_what_the_contract_rules_out() -> None:
    told = Evidence.of([-0.5, 0.0], [[-2.0, -0.5, -math.inf], [0.0, FLOOR]])
    assert told.alternatives == ((-0.5, -2.0), (0.0,))


@pytest.mark.parametrize(
    ("logprobs", "message"),
    [
        ([], "it has no logprobs"),
        ([-0.1, math.nan], "token 1 is NaN"),
        ([-0.1, 0.5], "token 1 is 0.5; a logprob cannot be above 0"),
        ([math.inf], "cannot be above 0"),
    ],
)
def test_what_is_no_logprob_is_no_evidence(logprobs: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evidence.of(logprobs)


@pytest.mark.parametrize(
    ("alternatives", "message"),
    [
        ([[-0.1]], "alternatives for 1 tokens of 2"),
        ([[-0.1], []], "Token 1 comes without its alternatives"),
        ([[-0.1], [-math.inf]], "Token 1 comes without its alternatives"),
        ([[-0.1], [math.nan]], "token 1 is NaN"),
    ],
)
def test_alternatives_that_are_missing_or_broken_are_refused(alternatives: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evidence.of([-0.1, -0.2], alternatives)


def test_the_first_tokens() -> None:
    told = Evidence.of([-0.1, -0.2, -0.3], [[-0.1], [-0.2], [-0.3]])
    assert told.first(2) == Evidence.of([-0.1, -0.2], [[-0.1], [-0.2]])
    assert told.first(9) == told
    assert Evidence.of([-0.1, -0.2]).first(1) == Evidence.of([-0.1])


class Spelling:
    """A tokenizer of single characters; `also` is a token that is spelled like another."""

    eos_token_id = 0

    def __init__(self, also: str = "") -> None:
        self.also = also

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}

    def decode(self, ids: list[int]) -> str:
        (token,) = ids
        return "a" if chr(token) == self.also else chr(token)


def choices(*given: str) -> Task:
    return Task(kind="choices", prompt="{text}", choices=given)


def test_as_many_alternatives_as_choices() -> None:
    assert alternatives_asked(choices("a", "b", "c"), Spelling()) == 3
    assert alternatives_asked(choices(*(chr(97 + i) for i in range(25))), Spelling()) == 20


def test_no_alternatives_where_tokens_are_any_or_cannot_be_told_apart() -> None:
    assert alternatives_asked(Task(kind="text", prompt="{text}"), Spelling()) == 0
    assert alternatives_asked(choices("a", "b"), Spelling(also="b")) == 0
