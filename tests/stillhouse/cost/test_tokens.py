"""Costs, on numbers worked by hand."""

import pytest

from stillhouse.cost import Tokens, cascade_cost, cost_per_million, costs
from stillhouse.recipe import Prices


def test_a_million_requests_of_a_thousand_tokens() -> None:
    """1,000 tokens a request at 30 a million tokens: 1e9 tokens, 30,000."""
    assert cost_per_million(Tokens(prompt=1000, completion=0), input_price=30, output_price=99) == 30_000
    assert cost_per_million(Tokens(prompt=600, completion=400), input_price=30, output_price=30) == 30_000
    assert cost_per_million(Tokens(prompt=600, completion=400), input_price=1, output_price=5) == 2_600


def test_the_cascade_pays_the_student_always_and_the_teacher_on_fallback() -> None:
    assert cascade_cost(student=2_000, teacher=30_000, fallback_rate=0.3) == pytest.approx(11_000)
    assert cascade_cost(student=2_000, teacher=30_000, fallback_rate=0) == 2_000
    assert cascade_cost(student=2_000, teacher=30_000, fallback_rate=1) == 32_000


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_an_impossible_fallback_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        cascade_cost(student=1, teacher=1, fallback_rate=rate)


def test_the_recipes_prices_give_the_three_costs() -> None:
    prices = Prices(currency="EUR", teacher_input=10, teacher_output=30, student_input=1, student_output=2)
    found = costs(
        teacher=Tokens(prompt=100, completion=10),
        student=Tokens(prompt=90, completion=5),
        fallback_rate=0.25,
        prices=prices,
    )
    assert (found.currency, found.teacher, found.student) == ("EUR", 1_300, 100)
    assert found.cascade == pytest.approx(425)


def test_tokens_without_a_price_are_not_free() -> None:
    tokens = Tokens(prompt=10, completion=2)
    assert cost_per_million(tokens, input_price=1, output_price=None) is None
    assert cost_per_million(Tokens(prompt=10, completion=0), input_price=1, output_price=None) == 10
    assert cost_per_million(tokens, input_price=0, output_price=0) == 0
    found = costs(teacher=tokens, student=tokens, fallback_rate=0.5, prices=Prices(teacher_input=3, student_output=0))
    assert (found.teacher, found.student, found.cascade) == (30, 0, 15)
    assert found.unpriced == ("prices.teacher_output", "prices.student_input")
