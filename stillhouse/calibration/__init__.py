"""From held-out answers to a score and a threshold with a promise about what the student answers alone."""

from stillhouse.calibration.calibrate import Calibrated, calibrate
from stillhouse.calibration.select import Candidate, Selection, records_to_fit, select
from stillhouse.calibration.threshold import (
    GRID,
    Calibration,
    Nearest,
    choose_threshold,
    choose_thresholds,
    first_sample,
    smallest_sample,
)

__all__ = [
    "GRID",
    "Calibrated",
    "Calibration",
    "Candidate",
    "Nearest",
    "Selection",
    "calibrate",
    "choose_threshold",
    "choose_thresholds",
    "first_sample",
    "records_to_fit",
    "select",
    "smallest_sample",
]
