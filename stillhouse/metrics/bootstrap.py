"""Intervals by resampling the records: of a mean, of a difference, of any statistic of the test set.

Percentile intervals of the bootstrap (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13). What
is resampled are records, each with all of its answers, so that a difference of two models on the same records is a
paired one. It takes the records for independent, and needs some dozens of them; where all are alike there is nothing to
resample, and the interval has no width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

RESAMPLES = 10_000

_ELEMENTS = 2**21
"""Numbers that are resampled at once: 16 MiB an array."""

Statistic = Callable[..., np.ndarray]
"""Of columns [..., n] and the keyword `axis=-1`, to values [...]."""


class Measured(BaseModel):
    """A statistic of the test records with its two-sided interval."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float = Field(description="As measured.")
    low: float = Field(description="Lower end of the interval.")
    high: float = Field(description="Upper end of the interval.")
    n: int = Field(gt=0, description="Records it was measured on.")
    level: float = Field(default=0.95, gt=0, lt=1, description="The interval's confidence level.")


def bootstrap(
    columns: Sequence[np.ndarray],
    statistic: Statistic = np.mean,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Measured:
    """A statistic of records, with its percentile interval; the same for the same seed.

    Args:
        columns: each [n], one value a record; they are resampled together.
        statistic: vectorised: given the columns, each [..., n], and `axis=-1`.

    Raises:
        ValueError: no records, columns of different lengths, or values that are not finite.
    """
    arrays = [np.asarray(column) for column in columns]
    n = arrays[0].size
    if any(array.shape != (n,) for array in arrays):
        raise ValueError(f"The columns need one value a record each, but have shapes {[a.shape for a in arrays]}.")
    if n == 0:
        raise ValueError("There are no records to resample.")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("Some values of the records are not finite.")
    value = float(statistic(*arrays, axis=-1))
    if n == 1 or all((array == array[0]).all() for array in arrays):
        return Measured(value=value, low=value, high=value, n=n, level=level)
    from scipy.stats import bootstrap as resample  # most of a second to import

    interval = resample(
        arrays,
        statistic,
        n_resamples=resamples,
        batch=max(1, _ELEMENTS // n),
        vectorized=True,
        paired=True,
        axis=-1,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Measured(value=value, low=float(interval.low), high=float(interval.high), n=n, level=level)


def paired_bootstrap(difference: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> Measured:
    """The mean of a difference [n] between two models on the same records, one value a record, with its interval.

    Raises:
        ValueError: as `bootstrap`.
    """
    return bootstrap([np.asarray(difference, dtype=np.float64)], seed=seed, resamples=resamples)
