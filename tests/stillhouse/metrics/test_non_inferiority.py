"""The non-inferiority test: its score by brute force, its error rate exactly, its sample size by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import beta, binomtest, multinomial, norm

from stillhouse.metrics.bootstrap import paired_bootstrap
from stillhouse.metrics.non_inferiority import bounds, non_inferiority, records_needed, score, sentence


def rights(gains: int, losses: int, both: int, neither: int = 0) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([True, False, True, False], [gains, losses, both, neither])
    second = np.repeat([False, True, True, False], [gains, losses, both, neither])
    return first, second


@pytest.mark.parametrize(("gains", "losses", "n"), [(3, 9, 100), (0, 4, 44), (12, 2, 60), (1, 1, 30), (5, 0, 25)])
@pytest.mark.parametrize("difference", [-0.3, -0.05, 0.02, 0.4])
def test_the_score_is_that_of_the_likeliest_rates(gains: int, losses: int, n: int, difference: float) -> None:
    """The constrained maximum found by search, where the code solves an equation."""

    def unlikely(q: float) -> float:
        p = [q + difference, q, 1 - 2 * q - difference]
        counts = [gains, losses, n - gains - losses]
        return -sum(count * np.log(max(share, 1e-300)) for count, share in zip(counts, p, strict=True))

    ends = (max(0.0, -difference), (1 - difference) / 2)
    q = minimize_scalar(unlikely, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
    expected = (gains - losses - n * difference) / np.sqrt(n * (2 * q + difference - difference**2))
    assert float(score(gains, losses, n, difference)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("gains", "losses", "n"), [(3, 9, 100), (1, 49, 50), (60, 2, 62), (1, 1, 2)])
def test_the_bounds_are_where_the_score_is_the_quantile(gains: int, losses: int, n: int) -> None:
    low, high = bounds(gains, losses, n, level=0.95)
    assert -1 <= low < (gains - losses) / n < high <= 1
    assert float(score(gains, losses, n, low)) == pytest.approx(norm.ppf(0.95), abs=1e-6)
    assert float(score(gains, losses, n, high)) == pytest.approx(-norm.ppf(0.95), abs=1e-6)
    assert bounds(losses, gains, n, level=0.95) == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize(("losses", "n"), [(0, 50), (3, 50), (50, 50), (0, 1)])
def test_without_gains_the_lower_bound_is_the_binomials(losses: int, n: int) -> None:
    exact = binomtest(losses, n, alternative="less").proportion_ci(0.95, method="exact").high
    low, _ = bounds(0, losses, n, level=0.95)
    assert low == pytest.approx(-exact)
    assert bounds(losses, 0, n, level=0.95)[1] == pytest.approx(exact)


def test_on_many_records_the_bounds_are_the_bootstraps() -> None:
    first, second = rights(120, 180, 1500, 200)
    found = non_inferiority(first, second, margin=0.05)
    # The bootstrap's two-sided 90% interval has the same two one-sided bounds.
    difference = first.astype(float) - second
    resampled = paired_bootstrap(difference, seed=1)
    half = norm.ppf(0.95) / norm.ppf(0.975)
    assert found.difference == pytest.approx(resampled.value) == pytest.approx(-0.03)
    assert found.low == pytest.approx(-0.03 + (resampled.low + 0.03) * half, abs=1e-3)
    assert found.high == pytest.approx(-0.03 + (resampled.high + 0.03) * half, abs=1e-3)


def passing(gains: np.ndarray, losses: np.ndarray, n: int, margin: float) -> np.ndarray:
    """Which outcomes are non-inferior, for many at once."""
    exact = beta.ppf(0.95, losses + 1, np.maximum(n - losses, 1e-9)) < margin
    return np.where(gains == 0, exact, score(gains, losses, n, -margin) > norm.ppf(0.95))


@pytest.mark.parametrize("margin", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("n", [52, 133, 300])
def test_the_error_rate_at_the_margin(n: int, margin: float) -> None:
    """Exactly, over all outcomes: a student that is worse by the margin passes in about 5% of the test sets."""
    gains, losses = (counts.ravel() for counts in np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij"))
    there = gains + losses <= n
    gains, losses = gains[there], losses[there]
    passes = passing(gains, losses, n, margin)
    for rate in (0.0, 0.005, 0.02, 0.05, 0.2):
        shares = [rate, rate + margin, 1 - 2 * rate - margin]
        chance = multinomial.pmf(np.stack([gains, losses, n - gains - losses], axis=1), n, shares)
        assert float(chance[passes].sum()) < 0.058


def test_the_error_rate_by_simulation() -> None:
    """The same through the whole function: verdicts on test sets that were drawn."""
    rng = np.random.default_rng(0)
    verdicts = []
    for gains, losses, both in rng.multinomial(200, [0.01, 0.06, 0.93], size=300):
        verdict = non_inferiority(*rights(gains, losses, both), margin=0.05).verdict
        assert (verdict == "non-inferior") == passing(gains, losses, 200, 0.05)
        verdicts.append(verdict)
    wrong = verdicts.count("non-inferior")
    assert wrong / 300 < 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5
    assert wrong > 0


def test_the_three_verdicts() -> None:
    assert non_inferiority(*rights(10, 12, 978), margin=0.02).verdict == "non-inferior"
    assert non_inferiority(*rights(0, 100, 900), margin=0.02).verdict == "inferior"
    found = non_inferiority(*rights(2, 3, 95), margin=0.02)
    assert (found.verdict, found.only_first, found.only_second, found.n) == ("cannot tell", 2, 3, 100)
    assert found.records_needed is not None
    assert found.records_needed > 100
    # Not one record on which they differ is no proof on a few of them.
    assert non_inferiority(*rights(0, 0, 50), margin=0.02).verdict == "cannot tell"
    assert non_inferiority(*rights(0, 0, 200), margin=0.02).verdict == "non-inferior"


@pytest.mark.parametrize(("gains", "losses"), [(0.02, 0.03), (0.05, 0.05), (0.1, 0.08), (0.0, 0.01)])
def test_as_many_records_as_needed_show_it_with_80_percent(gains: float, losses: float) -> None:
    n = records_needed(gains, losses, margin=0.04, level=0.95)
    assert n is not None
    drawn = np.random.default_rng(2).multinomial(n, [gains, losses, 1 - gains - losses], size=20_000)
    power = float(passing(drawn[:, 0], drawn[:, 1], n, 0.04).mean())
    # Counts are whole numbers: the power of a few dozen differing records goes up and down in steps.
    assert power == pytest.approx(0.8, abs=0.04 if gains else 0.09)


def test_no_number_of_records_shows_what_is_not_there() -> None:
    assert records_needed(0.0, 0.04, margin=0.04, level=0.95) is None
    assert non_inferiority(*rights(0, 9, 91), margin=0.05).records_needed is None


@pytest.mark.parametrize(
    ("first", "second", "margin"), [([], [], 0.1), ([True], [True, False], 0.1), ([True], [True], 0.0)]
)
def test_what_cannot_be_compared_is_refused(first: list[bool], second: list[bool], margin: float) -> None:
    with pytest.raises(ValueError):
        non_inferiority(np.array(first, dtype=bool), np.array(second, dtype=bool), margin=margin)


def test_the_verdict_in_words() -> None:
    def told(gains: int, losses: int, both: int) -> str:
        return sentence(non_inferiority(*rights(gains, losses, both), margin=0.02), first="cascade")

    assert told(10, 12, 978) == (
        "The cascade is within 2 percentage points of the teacher, with 95% confidence: on 1,000 test records it was"
        " right 0.2 percentage points less often."
    )
    assert "worse than the teacher by more than 2 percentage points" in told(0, 100, 900)
    assert "cannot tell whether" in told(3, 3, 94)
    assert "it was as often right. About " in told(3, 3, 94)
    assert "right 3 percentage points less often. More such records would not show it." in told(2, 5, 93)
