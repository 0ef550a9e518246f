"""Intervals by resampling the records: of a mean, of a difference, of any statistic of the test set.

Percentile intervals of the bootstrap (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13). What
is resampled are records, each with all of its answers, so that a difference of two models on the same records is a
paired one. It takes the records for independent, and needs some dozens of them; where all are alike there is nothing to
resample, and the interval has no width.

Records that are alike are drawn together, as counts: how often each kind of record is in a resample is multinomial. On
50,000 records that answers can only tell apart in some hundred ways this takes milliseconds, not minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

RESAMPLES = 10_000

_FEWEST = 1_000

_DRAWS = 2 * 10**7
"""Numbers that one interval may draw, seconds of work: with more than 2,000 kinds of records there are fewer resamples,
though never fewer than 1,000."""

_ELEMENTS = 2**21
"""Counts that are held at once: 16 MiB."""

Statistic = Callable[..., np.ndarray]
"""Of columns [kinds] and the keyword `counts` [..., kinds], how often each kind of record occurs, to values [...]."""


class Measured(BaseModel):
    """A statistic of the test records with its two-sided interval."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float = Field(description="As measured.")
    low: float = Field(description="Lower end of the interval.")
    high: float = Field(description="Upper end of the interval.")
    n: int = Field(gt=0, description="Records it was measured on.")
    level: float = Field(default=0.95, gt=0, lt=1, description="The interval's confidence level.")


def mean(values: np.ndarray, *, counts: np.ndarray) -> np.ndarray:
    """The mean of a column, as a `Statistic`."""
    found: np.ndarray = counts @ values / counts.sum(axis=-1)
    return found


def bootstrap(
    columns: Sequence[np.ndarray],
    statistic: Statistic = mean,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Measured:
    """A statistic of records, with its percentile interval; the same for the same seed.

    Args:
        columns: each [n], one value a record; they are resampled together.
        statistic: given the columns of the kinds of records that there are, and how often each occurs.
        resamples: at most; fewer where there are more than 2,000 kinds of records.

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
    _, first, counts = np.unique(np.column_stack(arrays), axis=0, return_index=True, return_counts=True)
    kinds = [array[first] for array in arrays]
    value = float(statistic(*kinds, counts=counts))
    if first.size == 1:
        return Measured(value=value, low=value, high=value, n=n, level=level)
    left = min(resamples, max(_FEWEST, _DRAWS // first.size))
    batch = max(1, _ELEMENTS // first.size)
    rng, found = np.random.default_rng(seed), []
    while left > 0:
        drawn = rng.multinomial(n, counts / n, size=min(batch, left))
        found.append(statistic(*kinds, counts=drawn))
        left -= len(drawn)
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return Measured(value=value, low=float(low), high=float(high), n=n, level=level)


def paired_bootstrap(difference: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> Measured:
    """The mean of a difference [n] between two models on the same records, one value a record, with its interval.

    Raises:
        ValueError: as `bootstrap`.
    """
    return bootstrap([np.asarray(difference, dtype=np.float64)], seed=seed, resamples=resamples)
