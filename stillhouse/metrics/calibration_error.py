"""How far confidence is from accuracy."""

import numpy as np

from stillhouse.metrics.scores import check_scores


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, *, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over `bins` bins of equal width, weighted by records, 0..1.

    `confidence` [n] float in [0, 1], `correct` [n] bool; Guo et al. 2017, arxiv.org/abs/1706.04599.
    Raises ValueError as `check_scores` does.
    """
    confidence, correct = check_scores(confidence, correct)
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(index, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / confidence.size)
