"""From held-out scores to a threshold with a promise about the answers the student gives alone.

The promise: among the answers with confidence >= threshold, the share of wrong ones is at most alpha, and
the chance (over the draw of the calibration records) that this is untrue is at most delta. It holds for
requests that are drawn like the calibration records, and for exactly the student, tokenizer, template and
sampling that made the scores.

Method: Learn then Test (Angelopoulos et al. 2021, arxiv.org/abs/2110.01052) with fixed-sequence testing.

- The grid of thresholds is fixed in advance (`GRID`). For each, the null hypothesis is "the error above this
  threshold is more than alpha". Given that n answers are accepted, the wrong ones among them are binomial, so
  P(Binomial(n, alpha) <= wrong) is an exact p-value.
- Thresholds are tested from the strictest down, each at level delta, up to the first that is not rejected.
  Only the first true null of the sequence can break the promise, so no correction for multiple tests is due.
- The sequence starts at the strictest threshold that accepts `first_sample(n, alpha, delta)` records. Fewer
  than ceil(log(delta) / log(1 - alpha)) can never be rejected, not even without an error; and at
  barely that many one unlucky error ends the sequence at its first step, so with enough records it starts at
  up to three times as many.

Why that start is valid, although it is read off the calibration scores. It never looks at an answer's
correctness: the number asked for depends on n, alpha and delta alone, the start on how many scores lie
above each threshold. Let i be the strictest threshold whose null is true. If i accepts enough records, the
promise breaks only when i itself is rejected, of probability at most delta given the number i accepts. If
it accepts fewer, the first threshold tested lies below i. Given the counts of accepted records, the errors
above i are binomial with a risk over alpha, and so are those in each strip below i as long as less
confident answers do not err less; together they are at least as many as Binomial(n, alpha), and the p-value
stays valid. The one assumption is thus that below the first threshold that errs too much, less confident
answers do not err less than alpha: what any threshold on a score takes for granted, and what the
risk-coverage curve shows.
"""

import math
from collections.abc import Iterable

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from stillhouse.metrics import Against, Estimate, Prediction, check_scores, proportion

# Confidences crowd towards 1, so the grid gets finer there. Fixed in advance: never made from the records.
GRID: tuple[float, ...] = (
    *(i / 100 for i in range(100)),
    *(round(1 - 10.0**-decade * step / 10, 8) for decade in (2, 3, 4, 5) for step in range(9, 0, -1)),
)


class Nearest(BaseModel):
    """The strictest alpha for which the same records would have given a threshold.

    It was looked for after the records were seen, so it is a hint for the next recipe, not a promise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    alpha: float = Field(gt=0, lt=1, description="Smallest alpha, in steps of 0.005, that gives a threshold.")
    threshold: float = Field(ge=0, le=1, description="The threshold it gives.")
    coverage: Estimate = Field(description="Share of the calibration records accepted there.")


class Calibration(BaseModel):
    """What `choose_threshold` found: a threshold with its promise, or none and the nearest one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threshold: float | None = Field(description="Accept confidence >= threshold; None: nothing can be promised.")
    alpha: float = Field(gt=0, lt=1, description="Largest promised share of errors among accepted answers.")
    delta: float = Field(gt=0, lt=1, description="Largest chance that the promise is untrue.")
    n: int = Field(gt=0, description="Calibration records.")
    n_min: int = Field(gt=0, description="Fewest accepted records from which alpha can be promised at all.")
    n_start: int = Field(gt=0, description="Accepted records from which on thresholds were tested.")
    accepted: int = Field(ge=0, description="Calibration records accepted at the threshold; 0 without one.")
    wrong: int = Field(ge=0, description="Wrong answers among them.")
    p_value: float | None = Field(description="Exact binomial tail at the threshold.")
    coverage: Estimate | None = Field(description="Expected share of requests the student answers alone.")
    nearest: Nearest | None = Field(description="Without a threshold: the nearest promise; None if there is none.")


def choose_threshold(confidence: np.ndarray, correct: np.ndarray, *, alpha: float, delta: float) -> Calibration:
    """The lowest threshold at which the accepted answers err by at most `alpha`, with probability 1 -
    `delta`.

    `confidence` [n] float in [0, 1] and `correct` [n] bool belong to records that neither training nor the
    choice of the student has seen. Thresholds of the grid that accept the same records are one choice, and
    the strictest of them is returned, so that the student is not trusted below any confidence it was tried
    at. When nothing can be promised, `threshold` is None and `nearest` holds the smallest alpha that these
    records would have supported.

    Raises ValueError when alpha or delta lie outside (0, 1), when there are no records, when the lengths
    differ, and when a confidence is NaN or outside [0, 1].
    """
    if not (0 < alpha < 1 and 0 < delta < 1):
        raise ValueError(f"alpha and delta must lie between 0 and 1, but are {alpha} and {delta}.")
    confidence, correct = check_scores(confidence, correct)
    thresholds, accepted, wrong = _tally(confidence, correct)
    p_values, chosen = _fixed_sequence(accepted, wrong, n=confidence.size, alphas=np.array([alpha]), delta=delta)
    index = int(chosen[0])
    n, found = confidence.size, index >= 0
    return Calibration(
        threshold=float(thresholds[index]) if found else None,
        alpha=alpha,
        delta=delta,
        n=n,
        n_min=smallest_sample(alpha, delta),
        n_start=first_sample(n, alpha, delta),
        accepted=int(accepted[index]) if found else 0,
        wrong=int(wrong[index]) if found else 0,
        p_value=float(p_values[0, index]) if found else None,
        coverage=proportion(int(accepted[index]), n) if found else None,
        nearest=None if found else _nearest(thresholds, accepted, wrong, n=n, delta=delta),
    )


def calibrate(predictions: Iterable[Prediction], *, against: Against, alpha: float, delta: float) -> Calibration:
    """`choose_threshold` on the calibration split's predictions, each judged against the teacher or gold.

    Raises ValueError as `choose_threshold` and `Prediction.right` do.
    """
    records = list(predictions)
    return choose_threshold(
        np.array([record.confidence for record in records], dtype=np.float64),
        np.array([record.right(against) for record in records], dtype=bool),
        alpha=alpha,
        delta=delta,
    )


def smallest_sample(alpha: float, delta: float) -> int:
    """Fewest accepted answers that can promise `alpha`: the least n with (1 - alpha)^n <= delta."""
    n = max(1, math.ceil(math.log(delta) / math.log1p(-alpha)))
    # The quotient rounds: (1 - 0.1)^n = delta exactly may come out one too high or too low.
    while n > 1 and (1 - alpha) ** (n - 1) <= delta:
        n -= 1
    while (1 - alpha) ** n > delta:
        n += 1
    return n


def first_sample(n: int, alpha: float, delta: float) -> int:
    """Accepted records at which the sequence starts: n / 4, within 1 to 3 times `smallest_sample`."""
    fewest = smallest_sample(alpha, delta)
    return max(fewest, min(3 * fewest, n // 4))


def _tally(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds [g] from the strictest down, with the records accepted [g] and the wrong ones among them
    [g].

    Of grid thresholds that accept the same records only the strictest is kept; those that accept none are
    not.
    """
    thresholds = np.array(GRID[::-1])
    order = np.argsort(confidence)
    errors_below = np.concatenate([[0], np.cumsum(~correct[order])])
    below = np.searchsorted(confidence[order], thresholds, side="left")
    accepted = confidence.size - below
    wrong = errors_below[-1] - errors_below[below]
    keep = np.diff(accepted, prepend=0) > 0
    return thresholds[keep], accepted[keep], wrong[keep]


def _fixed_sequence(
    accepted: np.ndarray, wrong: np.ndarray, *, n: int, alphas: np.ndarray, delta: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fixed-sequence test of `accepted` [g] and `wrong` [g], strictest first, for each of `alphas` [a].

    Returns the p-values [a, g] and the index [a] of the last threshold that passed, -1 where none did.
    """
    from scipy.stats import binom  # most of a second to import, and the gateway never needs it

    p_values = binom.cdf(wrong, accepted, alphas[:, None])
    n_start = np.array([first_sample(n, float(alpha), delta) for alpha in alphas])
    waiting = accepted < n_start[:, None]  # before the start of the sequence
    unbroken = np.logical_and.accumulate(waiting | (p_values <= delta), axis=1)
    passed = unbroken & ~waiting
    last = passed.shape[1] - 1 - np.argmax(passed[:, ::-1], axis=1) if passed.shape[1] else np.array([-1])
    return p_values, np.where(passed.any(axis=1), last, -1)


def _nearest(
    thresholds: np.ndarray, accepted: np.ndarray, wrong: np.ndarray, *, n: int, delta: float
) -> Nearest | None:
    """The smallest alpha, in steps of 0.005, for which the sequence passes anywhere."""
    alphas = np.arange(1, 200) / 200
    _, chosen = _fixed_sequence(accepted, wrong, n=n, alphas=alphas, delta=delta)
    possible = np.flatnonzero(chosen >= 0)
    if not possible.size:
        return None
    index = int(chosen[possible[0]])
    return Nearest(
        alpha=float(alphas[possible[0]]),
        threshold=float(thresholds[index]),
        coverage=proportion(int(accepted[index]), n),
    )
