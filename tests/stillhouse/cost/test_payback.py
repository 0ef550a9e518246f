"""What is saved and when that has paid, on numbers worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.cost import Payback, payback


def paid(**changes: Any) -> Payback:
    keys: dict[str, Any] = {"teacher": 30_000, "student": 2_000, "currency": "USD", "one_off": 700}
    return payback(**{**keys, "monthly_requests": 1e6, "coverage": 0.7, **changes})


def test_the_known_example() -> None:
    """A million requests a month of 1,000 tokens, 30 against 2 a million tokens, 700 once."""
    found = paid()
    assert (found.monthly_teacher, found.full.monthly_saving) == (30_000, 28_000)
    assert found.partial.monthly_saving == pytest.approx(19_000)  # 0.7 * 30,000 - 2,000
    assert found.partial.monthly_saving_if_routed == pytest.approx(19_600)  # 0.7 * 28,000
    assert found.full.payback_days is not None
    assert found.full.payback_days < 1
    assert found.full.payback_days == pytest.approx(700 / 28_000 * 365.25 / 12)
    assert found.partial.payback_days == pytest.approx(700 / 19_000 * 365.25 / 12)
    assert (found.full.break_even_requests, found.partial.break_even_requests) == (25_000, pytest.approx(36_842.1))
    assert found.least_coverage == pytest.approx(1 / 15)


def test_what_is_not_known_stays_so() -> None:
    volume = paid(monthly_requests=None)
    assert (volume.monthly_teacher, volume.partial.monthly_saving, volume.partial.payback_days) == (None, None, None)
    assert volume.full.break_even_requests == 25_000
    once = paid(one_off=None)
    assert (once.partial.break_even_requests, once.partial.payback_days) == (None, None)
    assert once.full.monthly_saving == 28_000
    assert paid(one_off=0).full.payback_days == 0


def test_a_student_that_saves_nothing_is_never_paid() -> None:
    # 0.7 * 30 - 21 is a hair above 0 in floating point.
    found = paid(teacher=30, student=21)
    assert (found.partial.payback_days, found.partial.break_even_requests) == (None, None)
    assert found.full.break_even_requests == pytest.approx(700 / 9 * 1e6)
    assert found.least_coverage == pytest.approx(0.7)
    dear = paid(student=30_000)
    assert (dear.least_coverage, dear.full.payback_days) == (None, None)
    assert dear.partial.saving == pytest.approx(-9_000)
    assert paid(teacher=0, student=0).least_coverage is None
    assert paid(coverage=0).partial.saving == pytest.approx(-2_000)


@pytest.mark.parametrize("coverage", [-0.1, 1.1, float("nan")])
def test_an_impossible_coverage_is_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage lies between 0 and 1"):
        paid(coverage=coverage)


@given(
    st.floats(0.01, 1e6), st.floats(0, 1e6), st.floats(0, 1e6), st.floats(1, 1e9), st.floats(0, 1)
)  # fmt: skip
def test_after_the_break_even_the_cascade_has_cost_less(
    teacher: float, student: float, once: float, requests: float, coverage: float
) -> None:
    found = paid(teacher=teacher, student=student, one_off=once, monthly_requests=requests, coverage=coverage)
    least, at = found.least_coverage, found.partial
    if at.break_even_requests is None:
        assert least is None or coverage <= least + 1e-9
    else:
        assert least is not None
        assert coverage > least
        spent = once + at.break_even_requests / 1e6 * at.cascade
        assert spent == pytest.approx(at.break_even_requests / 1e6 * teacher, rel=1e-6, abs=1e-6)
