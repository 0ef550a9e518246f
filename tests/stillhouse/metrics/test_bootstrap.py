"""Bootstrap intervals against closed forms, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from scipy.stats import binom

from stillhouse.metrics.bootstrap import bootstrap, mean, paired_bootstrap


def test_of_a_share_it_is_the_binomials_quantiles() -> None:
    """Resampling 30 of 200 draws binomial counts."""
    found = paired_bootstrap(np.repeat([1.0, 0.0], [30, 170]), seed=3)
    assert (found.value, found.n, found.level) == (0.15, 200, 0.95)
    assert found.low == pytest.approx(binom.ppf(0.025, 200, 0.15) / 200, abs=0.006)
    assert found.high == pytest.approx(binom.ppf(0.975, 200, 0.15) / 200, abs=0.006)


def test_it_is_paired() -> None:
    """Two models that err together differ by far less than two that err by themselves."""
    rng = np.random.default_rng(0)
    teacher = rng.random(400) < 0.8
    student = teacher ^ (rng.random(400) < 0.02)
    paired = paired_bootstrap(student.astype(float) - teacher)
    alone = paired_bootstrap(student.astype(float) - rng.permutation(teacher))
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_the_interval_holds_the_truth_in_about_95_percent() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        found = paired_bootstrap(rng.choice([-1.0, 0.0, 1.0], size=150, p=[0.1, 0.84, 0.06]), resamples=1000)
        held += found.low <= -0.04 <= found.high
    assert 0.89 <= held / 200 <= 0.99


def test_a_statistic_of_several_columns_is_resampled_by_record() -> None:
    """A ratio of sums; were the columns resampled apart, it would spread."""
    weights = np.random.default_rng(2).integers(1, 50, size=300).astype(float)

    def ratio(above: np.ndarray, below: np.ndarray, *, counts: np.ndarray) -> np.ndarray:
        found: np.ndarray = (counts @ above) / (counts @ below)
        return found

    found = bootstrap([2 * weights, weights], ratio)
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))


def test_the_same_seed_gives_the_same_interval_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).random(500)
    whole = paired_bootstrap(values, seed=5)
    assert paired_bootstrap(values, seed=5) == whole
    assert paired_bootstrap(values, seed=6) != whole
    monkeypatch.setattr("stillhouse.metrics.bootstrap._ELEMENTS", 1000)
    cut = paired_bootstrap(values, seed=5)
    assert (cut.low, cut.high) == pytest.approx((whole.low, whole.high), rel=1e-12)


def test_it_is_scipys_interval() -> None:
    """An implementation that gathers the records themselves, on values with and without ties."""
    rng = np.random.default_rng(6)
    for values in (rng.normal(size=300), rng.integers(0, 3, 300).astype(float)):
        expected = scipy.stats.bootstrap(
            [values], np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(7)
        ).confidence_interval
        found = paired_bootstrap(values)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.05 * values.std())


def test_many_records_are_drawn_by_their_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """50,000 records of three kinds: each resample is three numbers."""
    drawn: list[tuple[int, ...]] = []

    def watched(values: np.ndarray, *, counts: np.ndarray) -> np.ndarray:
        drawn.append(counts.shape)
        return mean(values, counts=counts)

    found = bootstrap([np.repeat([-1.0, 0.0, 1.0], [1000, 48_000, 1000])], watched)
    assert drawn == [(3,), (10_000, 3)]
    assert found.high - found.low == pytest.approx(2 * 1.96 * (2000 / 50_000 / 50_000) ** 0.5, rel=0.05)


def test_many_kinds_of_records_have_fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    resampled = 0

    def watched(values: np.ndarray, *, counts: np.ndarray) -> np.ndarray:
        nonlocal resampled
        resampled += counts.shape[0] if counts.ndim > 1 else 0
        return mean(values, counts=counts)

    monkeypatch.setattr("stillhouse.metrics.bootstrap._DRAWS", 2000 * 400)
    bootstrap([np.random.default_rng(8).random(400)], watched)
    assert resampled == 2000
    monkeypatch.setattr("stillhouse.metrics.bootstrap._DRAWS", 400)
    bootstrap([np.random.default_rng(8).random(400)], watched)
    assert resampled == 2000 + 1000


def test_nothing_to_resample() -> None:
    for values in (np.zeros(50), np.array([0.25])):
        found = paired_bootstrap(values)
        assert found.low == found.value == found.high


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ([np.array([])], "no records"),
        ([np.zeros(3), np.zeros(4)], "one value a record"),
        ([np.zeros((3, 2))], "one value a record"),
        ([np.array([0.0, np.nan])], "not finite"),
    ],
)
def test_what_cannot_be_resampled_is_refused(columns: list[np.ndarray], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        bootstrap(columns)
