"""From held-out scores to a threshold with a promise about the answers the student gives alone.

The promise: among the answers with confidence >= threshold, the share of wrong ones is at most alpha, and
the chance (over the draw of the calibration records) that this is untrue is at most delta. It holds for
requests that are drawn like the calibration records, and for exactly the student, tokenizer, template and
sampling that made the scores. The score is taken as given: it was fixed in advance, or chosen and fitted on other
records than these.

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

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from stillhouse.metrics import Estimate, check_scores, proportion

# Confidences crowd towards 1, so the grid gets finer there; the probability of a whole text is tiny, so it reaches
# far down too, but not to 0: that is the confidence of an answer which never goes out alone, such as one outside the
# contract. Fixed in advance: never made from the records.
GRID: tuple[float, ...] = (
    *(10.0**-decade for decade in range(30, 2, -1)),
    *(i / 100 for i in range(1, 100)),
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
    choice of the student or of the score has seen. Thresholds of the grid that accept the same records are one
    choice, and the strictest of them is returned, so that the student is not trusted below any confidence it was
    tried at. When nothing can be promised, `threshold` is None and `nearest` holds the smallest alpha that these
    records would have supported.

    Raises ValueError when alpha or delta lie outside (0, 1), when there are no records, when the lengths
    differ, and when a confidence is NaN or outside [0, 1].
    """
    _check_promise(alpha, delta)
    confidence, correct = check_scores(confidence, correct)
    n = confidence.size
    accepted, wrong = (counts[0] for counts in _tally(confidence[None], correct[None]))
    index = int(_fixed_sequence(accepted, wrong, n=n, alphas=np.array([alpha]), delta=delta)[0])
    found = index >= 0
    return Calibration(
        threshold=GRID[::-1][index] if found else None,
        alpha=alpha,
        delta=delta,
        n=n,
        n_min=smallest_sample(alpha, delta),
        n_start=first_sample(n, alpha, delta),
        accepted=int(accepted[index]) if found else 0,
        wrong=int(wrong[index]) if found else 0,
        p_value=float(_p_values(accepted[index], wrong[index], alpha)) if found else None,
        coverage=proportion(int(accepted[index]), n) if found else None,
        nearest=None if found else _nearest(accepted, wrong, n=n, delta=delta),
    )


def choose_thresholds(confidence: np.ndarray, correct: np.ndarray, *, alpha: float, delta: float) -> np.ndarray:
    """The thresholds alone of many calibration sets at once, for simulations.

    `confidence` [sets, n] float in [0, 1], `correct` [sets, n] bool; returns [sets] float64, NaN where nothing can
    be promised. Raises ValueError when alpha or delta lie outside (0, 1).
    """
    _check_promise(alpha, delta)
    accepted, wrong = _tally(confidence, correct)
    chosen = _fixed_sequence(accepted, wrong, n=confidence.shape[1], alphas=np.array([alpha]), delta=delta)
    return np.where(chosen >= 0, np.array(GRID[::-1])[chosen], np.nan)


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


def _check_promise(alpha: float, delta: float) -> None:
    if not (0 < alpha < 1 and 0 < delta < 1):
        raise ValueError(f"alpha and delta must lie between 0 and 1, but are {alpha} and {delta}.")


def _tally(confidence: np.ndarray, correct: np.ndarray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of `confidence` and `correct` [sets, n]: the records accepted [sets, grid] and the wrong ones among them [sets,
    grid], at the grid's thresholds from the strictest down."""
    edges = (0.0, *GRID)
    sets, size = len(confidence), len(edges)
    strip = np.searchsorted(edges, confidence, side="right") - 1 + size * np.arange(sets)[:, None]

    def above(strips: np.ndarray) -> NDArray[np.int64]:
        counts = np.bincount(strips, minlength=sets * size).reshape(sets, size)
        return counts[:, ::-1].cumsum(axis=1)[:, :-1]

    return above(strip.ravel()), above(strip[~correct])


def _p_values(accepted: np.ndarray, wrong: np.ndarray, alpha: np.ndarray | float) -> np.ndarray:
    """P(Binomial(accepted, alpha) <= wrong), of arrays that broadcast."""
    from scipy.stats import binom  # most of a second to import, and the gateway never needs it

    values: np.ndarray = binom.cdf(wrong, accepted, alpha)
    return values


def _fixed_sequence(
    accepted: np.ndarray, wrong: np.ndarray, *, n: int, alphas: np.ndarray, delta: float
) -> NDArray[np.intp]:
    """The fixed-sequence test of `accepted` and `wrong` [..., grid], strictest first, at `alphas` [...].

    Returns [...] the place in the grid of the last threshold that passed, or of the strictest that accepts the same
    records; -1 where none did.
    """
    starts = np.array([first_sample(n, float(alpha), delta) for alpha in alphas])[:, None]
    waiting = accepted < starts  # before the start of the sequence
    unbroken = np.logical_and.accumulate(waiting | (_p_values(accepted, wrong, alphas[:, None]) <= delta), axis=-1)
    passed = unbroken & ~waiting
    last = np.where(passed, accepted, -1).max(axis=-1, keepdims=True)
    return np.where(last[:, 0] >= 0, np.argmax(accepted == last, axis=-1), -1)


def _nearest(accepted: np.ndarray, wrong: np.ndarray, *, n: int, delta: float) -> Nearest | None:
    """The smallest alpha, in steps of 0.005, for which the sequence of `accepted` and `wrong` [grid] passes."""
    alphas = np.arange(1, 200) / 200
    chosen = _fixed_sequence(accepted, wrong, n=n, alphas=alphas, delta=delta)
    possible = np.flatnonzero(chosen >= 0)
    if not possible.size:
        return None
    index = int(chosen[possible[0]])
    return Nearest(
        alpha=float(alphas[possible[0]]),
        threshold=GRID[::-1][index],
        coverage=proportion(int(accepted[index]), n),
    )
