"""Quality on held-out records. Names that several rooms share are here; the rest is in the modules, one idea each."""

from stillhouse.metrics.answers import accuracy, agreement, majority
from stillhouse.metrics.calibration_error import expected_calibration_error
from stillhouse.metrics.classification import confusion
from stillhouse.metrics.estimate import Estimate, proportion
from stillhouse.metrics.predictions import Against, Prediction
from stillhouse.metrics.risk_coverage import RiskCoverage, area_under_risk_coverage, risk_coverage
from stillhouse.metrics.scores import check_scores

__all__ = [
    "Against",
    "Estimate",
    "Prediction",
    "RiskCoverage",
    "accuracy",
    "agreement",
    "area_under_risk_coverage",
    "check_scores",
    "confusion",
    "expected_calibration_error",
    "majority",
    "proportion",
    "risk_coverage",
]
