"""A share, with its interval."""

from pydantic import BaseModel, ConfigDict, Field


class Estimate(BaseModel):
    """A proportion measured on n records with its two-sided 95% interval."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float = Field(ge=0, le=1, description="Measured share, 0..1.")
    low: float = Field(ge=0, le=1, description="Lower end of the 95% interval.")
    high: float = Field(ge=0, le=1, description="Upper end of the 95% interval.")
    n: int = Field(gt=0, description="Records it was measured on.")


def proportion(successes: int, n: int) -> Estimate:
    """Share `successes / n` with its 95% Wilson score interval (Wilson 1927,
    doi:10.1080/01621459.1927.10502953).

    Raises ValueError when n is 0 or successes lie outside 0..n.
    """
    # scipy.stats takes most of a second to import and the gateway, which imports Estimate, never needs it.
    from scipy.stats import binomtest

    if n <= 0:
        raise ValueError("A proportion of no records is undefined.")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} records is impossible.")
    interval = binomtest(int(successes), int(n)).proportion_ci(confidence_level=0.95, method="wilson")
    value = successes / n
    # Rounding can leave an end of the interval a hair on the wrong side of 0, 1 or the value itself.
    return Estimate(value=value, low=min(max(interval.low, 0.0), value), high=max(min(interval.high, 1.0), value), n=n)
