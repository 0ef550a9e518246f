"""Confidences beside right and wrong: what they are checked for."""

import numpy as np


def check_scores(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as [n] arrays (float64 and bool), checked.

    Raises ValueError when they are empty, of different shape, or a confidence is NaN or outside [0, 1].
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    correct = np.asarray(correct, dtype=bool)
    if confidence.ndim != 1 or confidence.shape != correct.shape:
        raise ValueError(
            f"confidence and correct need one value a record each, but have shapes {confidence.shape} "
            f"and {correct.shape}."
        )
    if confidence.size == 0:
        raise ValueError("There are no records to score.")
    bad = np.flatnonzero(~((confidence >= 0) & (confidence <= 1)))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {confidence.size} confidences are NaN or outside 0..1, "
            f"the first is {confidence[bad[0]]} in record {bad[0]}."
        )
    return confidence, correct
