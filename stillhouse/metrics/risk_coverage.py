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


def area_under_risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Mean risk over the coverages 1/n, 2/n, …, 1: how well `confidence` [n] puts right answers first; lower is better.

    Records of equal confidence come in any order, so the errors among them count evenly. A confidence that knows
    nothing has the share of wrong answers (Geifman et al. 2019, arxiv.org/abs/1805.08206). Raises ValueError as
    `check_scores` does.
    """
    curve = risk_coverage(confidence, correct)
    errors = np.interp(np.arange(1, curve.accepted[-1] + 1), [0, *curve.accepted], [0, *curve.wrong])
    return float(np.mean(errors / np.arange(1, errors.size + 1)))
