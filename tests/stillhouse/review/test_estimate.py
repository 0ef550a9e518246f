"""The teacher's error: the share, and that its interval keeps what it promises."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
import pytest

from stillhouse.review.estimate import _interval, least_upper_end, teacher_error
from stillhouse.review.strata import Stratum, allocated


def strata_of(sizes: Sequence[int], share: float, labels: Sequence[str] | None = None) -> list[Stratum]:
    drawn = allocated(sizes, share=share)
    names = labels or [""] * len(sizes)
    return [Stratum(names[i], str(i), size, count) for i, (size, count) in enumerate(zip(sizes, drawn, strict=True))]


def test_nothing_judged_is_no_estimate() -> None:
    assert teacher_error(strata_of([100], 0.1), []) is None


def test_strata_count_by_their_sizes() -> None:
    strata = [Stratum("a", "a", 900, 10), Stratum("b", "b", 100, 10)]
    judged = [(0, i < 1) for i in range(10)] + [(1, i < 5) for i in range(10)]
    found = teacher_error(strata, judged)
    assert found is not None
    assert found.value == pytest.approx(0.9 * 0.1 + 0.1 * 0.5)
    assert found.n == 20
    assert found.low < found.value < found.high


def test_unjudged_strata_are_pooled_with_their_class() -> None:
    strata = [Stratum("a", "a1", 300, 30), Stratum("a", "a2", 100, 10), Stratum("b", "b", 100, 10)]
    found = teacher_error(strata, [(0, True), (0, False), (2, False)])
    assert found is not None
    assert found.value == pytest.approx(0.8 * 0.5)


def test_a_class_that_nobody_has_seen_joins_the_least_judged_one() -> None:
    strata = [Stratum("a", "a", 500, 50), Stratum("b", "b", 300, 30), Stratum("c", "c", 200, 20)]
    found = teacher_error(strata, [(0, False), (0, False), (0, False), (1, True), (1, False)])
    assert found is not None
    assert found.value == pytest.approx(0.5 * 0.5)


def test_judging_everything_leaves_no_doubt() -> None:
    strata = strata_of([30, 20], 1.0)
    judged = [(0, i < 3) for i in range(30)] + [(1, i < 1) for i in range(20)]
    found = teacher_error(strata, judged)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.08, 0.08, 0.08))


def test_no_error_among_some_is_no_proof_that_there_is_none() -> None:
    strata = strata_of([400], 0.1)
    found = teacher_error(strata, [(0, False)] * 40)
    assert found is not None
    assert (found.value, found.low) == (0, 0)
    # The largest number of wrong records that a sample of 40 misses with a chance of 2.5%, counted out.
    wrong = max(d for d in range(400) if comb(400 - d, 40) / comb(400, 40) >= 0.025)
    assert found.high == wrong / 400 == least_upper_end(strata)


@pytest.mark.parametrize(("count", "n", "population"), [(0, 10, 50), (3, 20, 60), (20, 20, 60), (7, 30, 500)])
def test_the_interval_inverts_the_hypergeometric_tails(count: int, n: int, population: int) -> None:
    """Against sums of binomial coefficients."""

    def chance(k: int, wrong: int) -> float:
        return comb(wrong, k) * comb(population - wrong, n - k) / comb(population, n)

    kept = [
        wrong
        for wrong in range(count, population - (n - count) + 1)
        if sum(chance(k, wrong) for k in range(count + 1)) >= 0.025
        and sum(chance(k, wrong) for k in range(count, n + 1)) >= 0.025
    ]
    assert _interval(count / n, n, population) == pytest.approx((kept[0] / population, kept[-1] / population))


@pytest.mark.parametrize(
    ("sizes", "rates", "share", "judged"),
    [
        ([100, 100, 100], [0.05, 0.1, 0.2], 0.12, 1.0),
        ([1000, 800, 30, 5, 3], [0.02, 0.1, 0.5, 0.6, 1.0], 0.12, 1.0),
        ([1000, 800, 30, 5, 3], [0.02, 0.1, 0.5, 0.6, 1.0], 0.12, 0.3),
        ([400] * 9, [0, 0, 0, 0, 0, 0, 0, 0.1, 0.5], 0.12, 0.4),
        ([50] * 20, [0.02] * 20, 0.1, 1.0),
        ([50] * 20, [1.0, *[0.0] * 19], 0.1, 0.5),
        ([3000], [0.002], 0.1, 1.0),
        ([100], [0.05], 0.5, 1.0),
    ],
)
def test_the_interval_covers_the_truth(sizes: list[int], rates: list[float], share: float, judged: float) -> None:
    """Over 250 reviews of one population: each side misses 2.5% at most, plus three standard errors of that."""
    draw = np.random.default_rng(0)
    strata = strata_of(sizes, share, [str(i // 3) for i in range(len(sizes))])
    records = [np.arange(size) < round(rate * size) for size, rate in zip(sizes, rates, strict=True)]
    truth = sum(int(wrong.sum()) for wrong in records) / sum(sizes)
    reviews, above, below, values = 250, 0, 0, []
    for _ in range(reviews):
        said = [
            (number, bool(wrong))
            for number, stratum in enumerate(strata)
            for wrong in draw.choice(records[number], stratum.drawn, replace=False)
        ]
        seen = draw.permutation(len(said))[: max(1, round(judged * len(said)))]
        found = teacher_error(strata, [said[i] for i in seen])
        assert found is not None
        assert found.low <= found.value <= found.high
        values.append(found.value)
        above += truth > found.high + 1e-12
        below += truth < found.low - 1e-12
    most = reviews * 0.025 + 3 * (reviews * 0.025) ** 0.5
    assert above <= most
    assert below <= most
    assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / reviews**0.5 + 0.003)
