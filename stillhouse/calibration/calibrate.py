"""From the calibration split to what the student may answer alone: score, threshold, and the promise behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stillhouse.calibration.select import Selection, fixed, records_to_fit, select
from stillhouse.calibration.threshold import Calibration, choose_threshold
from stillhouse.confidence import SEQUENCE_PROBABILITY, Evidence, Score
from stillhouse.metrics import Prediction, expected_calibration_error
from stillhouse.recipe import Recipe

FEW_RECORDS = 100
"""Calibration records below which the report warns."""


@dataclass(frozen=True)
class Calibrated:
    """A score with its threshold.

    Attributes:
        error_before, error_after: expected calibration error, 0..1, of the sequence probability and of the score, on
            the records that the threshold was tested on.
        tokens: how many tokens of an answer the score looks at; None for the whole answer.
        warnings: what a reader must know, one sentence each.
        windows: for a whole answer's score, those of its first tokens, by their number; their promises are of their
            own, each at the same alpha and delta.
    """

    selection: Selection
    calibration: Calibration
    error_before: float
    error_after: float
    tokens: int | None = None
    warnings: tuple[str, ...] = ()
    windows: dict[int, Calibrated] = field(default_factory=dict)

    def confidence(self, prediction: Prediction) -> float:
        """The answer's, in [0, 1]; 0 where the gateway would ask the teacher whatever the logprobs."""
        return _confidence(self.selection.score, prediction, self.tokens)

    def rescored(self, predictions: Iterable[Prediction]) -> list[Prediction]:
        """The predictions with this score's confidences."""
        return [replace(prediction, confidence=self.confidence(prediction)) for prediction in predictions]


def calibrate(predictions: Sequence[Prediction], recipe: Recipe) -> Calibrated:
    """What the calibration split's predictions allow, by the recipe's `evaluation`.

    Which records pick and fit the score and which test the threshold is drawn by the recipe's seed, whatever the
    answers, and the same for the whole answer and for each of `evaluation.windows`.

    Raises ValueError when there are no records, when one has no gold to be judged against, and when the score cannot
    be fitted.
    """
    evaluation = recipe.evaluation
    right = [prediction.right(evaluation.against) for prediction in predictions]
    n_fit = records_to_fit(len(predictions), evaluation.score, recipe.task)
    order = np.random.default_rng(recipe.seed).permutation(len(predictions))
    fitting, testing = np.sort(order[:n_fit]).tolist(), np.sort(order[n_fit:]).tolist()

    def calibrated(tokens: int | None) -> Calibrated:
        if n_fit:
            told = [(found, right[i]) for i in fitting if (found := _evidence(predictions[i], tokens)) is not None]
            selection = select(told, evaluation.score, n_fit=n_fit, seed=recipe.seed)
        else:
            selection = fixed(evaluation.score, len(predictions), recipe.task)
        tested = [predictions[i] for i in testing]
        correct = np.array([right[i] for i in testing], dtype=bool)
        before = np.array([_confidence(SEQUENCE_PROBABILITY, each, tokens) for each in tested])
        after = np.array([_confidence(selection.score, each, tokens) for each in tested])
        return Calibrated(
            selection=selection,
            calibration=choose_threshold(after, correct, alpha=evaluation.alpha, delta=evaluation.delta),
            error_before=expected_calibration_error(before, correct),
            error_after=expected_calibration_error(after, correct),
            tokens=tokens,
            warnings=tuple(_warnings(selection, after, len(predictions), tokens)),
        )

    whole = calibrated(None)
    return replace(whole, windows={tokens: calibrated(tokens) for tokens in evaluation.windows})


def _confidence(score: Score, prediction: Prediction, tokens: int | None) -> float:
    found = _evidence(prediction, tokens)
    return 0.0 if found is None else score(found)


def _evidence(prediction: Prediction, tokens: int | None) -> Evidence | None:
    """What the score is made from; None where the answer cannot go out alone, without logprobs or outside the
    contract."""
    if prediction.student is None or prediction.evidence is None:
        return None
    return prediction.evidence if tokens is None else prediction.evidence.first(tokens)


def _warnings(selection: Selection, scores: np.ndarray, n: int, tokens: int | None) -> Iterable[str]:
    of = "" if tokens is None else f" of the first {tokens} tokens"
    if n < FEW_RECORDS and tokens is None:
        yield (
            f"There are only {n} calibration records, and {FEW_RECORDS} are the least to count on: the threshold is"
            " stricter than the student may need, and the coverage is little known."
        )
    if scores.size > 1 and (scores == scores[0]).all():
        yield (
            f"All {scores.size} calibration scores{of} are {scores[0]:g}, so that the score tells no answer from"
            " another: the student may give all of them alone, or none."
        )
    best = min((candidate.area for candidate in selection.candidates), default=None)
    if best is not None and selection.chance is not None and best >= selection.chance:
        yield f"No score{of} puts right answers before wrong ones any better than chance."
