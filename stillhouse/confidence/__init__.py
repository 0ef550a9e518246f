"""How sure the student is of an answer: evidence (logprobs) → features → a score in [0, 1]."""

from stillhouse.confidence.evidence import Evidence
from stillhouse.confidence.features import FEATURES, FeatureName
from stillhouse.confidence.scores import (
    SEQUENCE_PROBABILITY,
    FeatureScore,
    IsotonicScore,
    LogisticScore,
    Score,
    Term,
)

__all__ = [
    "FEATURES",
    "SEQUENCE_PROBABILITY",
    "Evidence",
    "FeatureName",
    "FeatureScore",
    "IsotonicScore",
    "LogisticScore",
    "Score",
    "Term",
]
