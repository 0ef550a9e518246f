"""Confidence beside accuracy, bin by bin: what a reliability diagram draws."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from stillhouse.metrics.estimate import Estimate, proportion
from stillhouse.metrics.scores import check_scores

BINS = 10


class ReliabilityBin(BaseModel):
    """Records whose confidences lie in one bin."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: float = Field(ge=0, le=1, description="Lower end of the bin, which belongs to it.")
    high: float = Field(ge=0, le=1, description="Upper end of the bin, which belongs to the next one but for 1.")
    confidence: float = Field(ge=0, le=1, description="Mean confidence of its records.")
    accuracy: Estimate = Field(description="Share of its records that are right.")


def reliability(confidence: np.ndarray, correct: np.ndarray, *, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """The bins of equal width that hold records, confidence ascending.

    `confidence` [n] float in [0, 1], `correct` [n] bool; DeGroot and Fienberg 1983, doi:10.2307/2987588.
    Raises ValueError as `check_scores` does.
    """
    confidence, correct = check_scores(confidence, correct)
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return tuple(
        ReliabilityBin(
            low=i / bins,
            high=(i + 1) / bins,
            # Rounding may carry the mean of equal confidences past them.
            confidence=float(np.clip(confidence[index == i].mean(), 0, 1)),
            accuracy=proportion(int(correct[index == i].sum()), int((index == i).sum())),
        )
        for i in np.unique(index).tolist()
    )
