"""Is the student as good as the teacher, but for a margin? A test on the same records, and how many it takes.

"Within δ with 95% confidence" means: the one-sided lower 95% bound of the difference of two accuracies, student -
teacher, lies above -δ. The bound is Tango's, from the score of paired proportions (Tango 1998, "Equivalence test and
confidence interval for the difference in proportions for the paired-sample design", Statistics in Medicine 17, pages
891-908). It keeps near its level where only few records are right for one of the two alone, where Wald's bound and the
bootstrap's are too narrow. Where no record is right for the student alone, as when answers are held against the
teacher's own, the losses are binomial, and their exact bound is taken (Clopper and Pearson 1934, Biometrika 26,
404-413): Tango's would let a student that is worse by just δ pass in up to 7% of the test sets.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

POWER = 0.8
"""The chance to see what is there, that the sample size is for."""

Verdict = Literal["non-inferior", "inferior", "cannot tell"]


class NonInferiority(BaseModel):
    """Whether the first of two models is within a margin of the second, on the records that both answered."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    verdict: Verdict = Field(
        description="`non-inferior`: the lower bound lies above -margin; `inferior`: the upper one lies below it."
    )
    margin: float = Field(gt=0, lt=1, description="The loss of accuracy that is accepted, δ.")
    level: float = Field(gt=0.5, lt=1, description="Confidence of each bound, one-sided.")
    difference: float = Field(ge=-1, le=1, description="Accuracy of the first model minus that of the second.")
    low: float = Field(ge=-1, le=1, description="Lower bound of the difference.")
    high: float = Field(ge=-1, le=1, description="Upper bound of the difference.")
    n: int = Field(gt=0, description="Records.")
    only_first: int = Field(ge=0, description="Records that only the first model has right.")
    only_second: int = Field(ge=0, description="Records that only the second model has right.")
    records_needed: int | None = Field(
        description=f"Test records that would show non-inferiority with a chance of {POWER:.0%}, if the rates are those"
        " measured here; None: no number would, since the difference is no better than -margin."
    )


def non_inferiority(
    first_right: np.ndarray, second_right: np.ndarray, *, margin: float, level: float = 0.95
) -> NonInferiority:
    """Whether a model (student or cascade) is within `margin` of another (the teacher).

    Args:
        first_right: bool [n], whether its answer is right, for each record.
        second_right: bool [n], the other model's, on the same records.
        margin: in (0, 1).
        level: confidence of each one-sided bound.

    Raises:
        ValueError: no records, different lengths, or a margin or level that cannot be.
    """
    first, second = np.asarray(first_right, dtype=bool), np.asarray(second_right, dtype=bool)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"Both models need one value a record, but have shapes {first.shape} and {second.shape}.")
    if first.size == 0:
        raise ValueError("There are no records to compare two models on.")
    if not (0 < margin < 1 and 0.5 < level < 1):
        raise ValueError(f"A margin lies in (0, 1) and a level in (0.5, 1), but these are {margin} and {level}.")
    n, gains, losses = first.size, int((first & ~second).sum()), int((~first & second).sum())
    low, high = bounds(gains, losses, n, level=level)
    return NonInferiority(
        verdict="non-inferior" if low > -margin else "inferior" if high < -margin else "cannot tell",
        margin=margin,
        level=level,
        difference=(gains - losses) / n,
        low=low,
        high=high,
        n=n,
        only_first=gains,
        only_second=losses,
        records_needed=records_needed(gains / n, losses / n, margin=margin, level=level),
    )


def bounds(gains: int, losses: int, n: int, *, level: float) -> tuple[float, float]:
    """Lower and upper one-sided bounds of (gains - losses) / n: where Tango's score is the normal quantile.

    `gains` and `losses` are the records that only the first and only the second model has right. Without gains the
    lower bound is the exact one of the losses, without losses the upper one that of the gains.
    """
    from scipy.optimize import bisect
    from scipy.stats import beta, norm  # most of a second to import

    z, measured = float(norm.ppf(level)), (gains - losses) / n

    def beyond(difference: float) -> float:
        return abs(float(score(gains, losses, n, difference))) - z

    # The score is 0 at the measured difference, and infinite at the ends, which only bisection can bear.
    if gains == 0:
        low = -1.0 if losses == n else -float(beta.ppf(level, losses + 1, n - losses))
    else:
        low = float(bisect(beyond, -1.0, measured))
    if losses == 0:
        high = 1.0 if gains == n else float(beta.ppf(level, gains + 1, n - gains))
    else:
        high = float(bisect(beyond, measured, 1.0))
    return low, high


def score(gains: np.ndarray | float, losses: np.ndarray | float, n: float, difference: float) -> np.ndarray:
    """Tango's score of a true difference, approximately standard normal: above 0 where more was measured.

    `gains` and `losses` are counts [...], or shares with `n` of 1.
    """
    gap = np.asarray(gains - losses - n * difference, dtype=np.float64)
    spread = np.sqrt(np.maximum(0.0, n * _variance(gains, losses, n, difference)))
    far = np.where(gap == 0, 0.0, np.copysign(np.inf, gap))
    return np.where(spread > 0, gap / np.where(spread > 0, spread, 1.0), far)


def _variance(gains: np.ndarray | float, losses: np.ndarray | float, n: float, difference: float) -> np.ndarray:
    """n times the variance of the measured difference, at the likeliest rates that have this true one.

    With q the rate of losses the likelihood is (q + Δ)^gains q^losses (1 - 2q - Δ)^rest, whose maximum is the larger
    root of 2n q² + ((2n - gains + losses) Δ - gains - losses) q - losses Δ (1 - Δ) = 0 (Tango 1998, equation 8).
    """
    linear = (2 * n - gains + losses) * difference - gains - losses
    constant = -losses * difference * (1 - difference)
    root = np.sqrt(np.maximum(0.0, linear**2 - 8 * n * constant))
    rate = np.clip((root - linear) / (4 * n), max(0.0, -difference), (1 - difference) / 2)
    found: np.ndarray = 2 * rate + difference * (1 - difference)
    return found


def records_needed(gains: float, losses: float, *, margin: float, level: float, power: float = POWER) -> int | None:
    """Records from which on the test says non-inferior with the chance `power`, if these shares are the true ones.

    n = ((z_level s_0 + z_power s_1) / (Δ + δ))², with s_1 the standard deviation of one record's difference and s_0 the
    one that the score takes at -δ (Nam 1997, Biometrics 53, 1422-1430). None where Δ ≤ -δ.
    """
    from scipy.stats import norm  # most of a second to import

    difference = gains - losses
    distance = difference + margin
    if distance <= 1e-12:
        return None
    expected = float(np.sqrt(_variance(gains, losses, 1.0, -margin)))
    real = math.sqrt(max(0.0, gains + losses - difference**2))
    return max(1, math.ceil(((norm.ppf(level) * expected + norm.ppf(power) * real) / distance) ** 2))


def sentence(found: NonInferiority, *, first: str = "student", second: str = "teacher") -> str:
    """The verdict in words, for the head of a report."""
    margin, sure = _points(found.margin), f"{100 * found.level:g}%"
    gap = _points(abs(found.difference))
    measured = (
        "as often right" if not found.difference else f"right {gap} {'more' if found.difference > 0 else 'less'} often"
    )
    where = f"on {found.n:,} test records it was {measured}"
    if found.verdict == "non-inferior":
        return f"The {first} is within {margin} of the {second}, with {sure} confidence: {where}."
    if found.verdict == "inferior":
        return f"The {first} is worse than the {second} by more than {margin}, with {sure} confidence: {where}."
    told = f"These test records cannot tell whether the {first} is within {margin} of the {second}: {where}."
    if found.records_needed is None:
        return f"{told} More such records would not show it."
    return f"{told} About {found.records_needed:,} would, if the rates stay what they are."


def _points(share: float) -> str:
    """A difference of two shares, in percentage points."""
    count = f"{100 * share:.1f}".removesuffix(".0")
    return f"{count} percentage point{'' if count == '1' else 's'}"
