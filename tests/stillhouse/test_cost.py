"""Costs, on numbers worked by hand."""

import pytest

from stillhouse.cost import Tokens, cascade_cost, cost_per_million, costs, payback
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


def test_payback() -> None:
    """1,000 tokens a request at 30 and at 3 a million: 0.03 and 0.003 a request."""
    prices = Prices(currency="EUR", teacher_input=30, teacher_output=99, student_input=3, student_output=99)
    tokens = Tokens(prompt=1000, completion=0)
    found = payback(teacher=tokens, student=tokens, prices=prices, one_off=540, monthly_requests=10_000, coverage=0.7)
    assert (found.currency, found.teacher, found.student) == ("EUR", 30_000, 3_000)
    # Each request saves 0.027 with all of them, and 0.7 * 0.03 - 0.003 = 0.018 with 70%.
    assert found.months == pytest.approx(540 / 0.027 / 10_000)
    assert found.break_even_requests == pytest.approx(30_000)
    assert found.months_at_coverage == pytest.approx(3)
    # A student with a tokenizer of its own reads other counts of tokens.
    twice = payback(
        teacher=tokens, student=Tokens(prompt=2000, completion=0), prices=prices, one_off=540, monthly_requests=None,
        coverage=0.7,
    )  # fmt: skip
    assert (twice.teacher, twice.student) == (30_000, 6_000)
    unknown = payback(teacher=tokens, student=tokens, prices=prices, one_off=540, monthly_requests=None, coverage=0.7)
    assert (unknown.months, unknown.months_at_coverage) == (None, None)
    assert unknown.break_even_requests == pytest.approx(30_000)


def test_a_student_that_saves_nothing_is_never_paid() -> None:
    prices = Prices(teacher_input=30, student_input=21)
    one = Tokens(prompt=1, completion=0)
    found = payback(teacher=one, student=one, prices=prices, one_off=1, monthly_requests=1, coverage=0.7)
    assert (found.months_at_coverage, found.break_even_requests) == (None, None)
    assert found.months == pytest.approx(1e6 / 9)


@pytest.mark.parametrize("coverage", [0, 1.1, float("nan")])
def test_an_impossible_coverage_is_refused(coverage: float) -> None:
    one = Tokens(prompt=1, completion=1)
    with pytest.raises(ValueError, match="coverage lies above 0"):
        payback(teacher=one, student=one, prices=Prices(), one_off=1, monthly_requests=None, coverage=coverage)
