"""Risk against coverage as the threshold falls."""

from typing import NamedTuple

import numpy as np

from stillhouse.metrics.scores import check_scores


class RiskCoverage(NamedTuple):
    """Error of the accepted answers as the threshold falls; arrays are [points], coverage ascending."""

    threshold: np.ndarray  # float64; answers with confidence >= threshold are accepted
    coverage: np.ndarray  # float64, share of records accepted
    risk: np.ndarray  # float64, share of wrong answers among the accepted
    accepted: np.ndarray  # int64, records accepted
    wrong: np.ndarray  # int64, wrong answers among them


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> RiskCoverage:
    """Risk-coverage curve of `confidence` [n] float and `correct` [n] bool, one point a distinct confidence.

    Records of equal confidence are accepted together, so ties add one point
    (El-Yaniv and Wiener 2010, jmlr.org/papers/v11/el-yaniv10a). Raises ValueError as `check_scores` does.
    """
    confidence, correct = check_scores(confidence, correct)
    order = np.argsort(-confidence, kind="stable")
    scores, errors = confidence[order], np.cumsum(~correct[order])
    last = np.append(np.flatnonzero(np.diff(scores)), scores.size - 1)  # last record of each group of ties
    accepted, wrong = last + 1, errors[last]
    return RiskCoverage(scores[last], accepted / scores.size, wrong / accepted, accepted, wrong)
