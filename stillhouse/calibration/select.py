"""Which score the threshold is on: picked and fitted on a part of the calibration split that no threshold is tested on.

Scores are compared by the area under the risk-coverage curve. A feature is measured as it is; what is fitted (logistic
and isotonic regression, scikit-learn's) is measured by five-fold cross-validation, and then fitted on the whole part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from stillhouse.confidence import (
    FEATURES,
    SEQUENCE_PROBABILITY,
    Evidence,
    FeatureName,
    FeatureScore,
    IsotonicScore,
    LogisticScore,
    Score,
    Term,
)
from stillhouse.metrics import area_under_risk_coverage
from stillhouse.recipe import Task
from stillhouse.recipe.release import ScoreName

FIT_SHARE = 1 / 3
"""Share of the calibration records that pick and fit the score; the others test the threshold."""

ENOUGH_TO_PICK = 400
"""Calibration records from which on `auto` gives up a third of them to look for a better score."""

FOLDS = 5

FIXED: dict[str, FeatureScore] = {
    "sequence_probability": SEQUENCE_PROBABILITY,
    **{name: FeatureScore(feature=name) for name in FEATURES},
}
"""The scores that are the same for all records, by the recipe's names."""


class Candidate(BaseModel):
    """A score that was compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(description="As the recipe calls it.")
    area: float = Field(ge=0, le=1, description="Area under its risk-coverage curve; lower is better.")


class Selection(BaseModel):
    """The score, and how it came to be."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    score: Score
    n_fit: int = Field(ge=0, description="Calibration records that picked and fitted it, apart from the threshold's.")
    why: str = Field(description="In one sentence.")
    candidates: list[Candidate] = Field(description="What it was picked from, in the order of preference.")
    chance: float | None = Field(
        default=None, ge=0, le=1, description="Area of a score that knows nothing: the share of wrong answers."
    )


def records_to_fit(n: int, wanted: ScoreName, task: Task) -> int:
    """How many of `n` calibration records pick and fit the score: a third, or none where it is fixed.

    Nothing of the records but their number has a say in it, so that the test of the threshold stays valid. Two choices
    have one probability between them, so that there is little to pick from.
    """
    if wanted in FIXED or (wanted == "auto" and (n < ENOUGH_TO_PICK or len(task.choices) == 2)):
        return 0
    return round(n * FIT_SHARE)


def fixed(wanted: ScoreName, n: int, task: Task) -> Selection:
    """The score where no record has a say in it."""
    if wanted != "auto":
        return Selection(score=FIXED[wanted], n_fit=0, why="The recipe names it.", candidates=[])
    why = (
        "Two choices have one probability between them, so there is little to pick from."
        if len(task.choices) == 2
        else f"From {ENOUGH_TO_PICK} calibration records on one would be picked; there are {n}."
    )
    return Selection(score=SEQUENCE_PROBABILITY, n_fit=0, why=why, candidates=[])


def select(answers: Sequence[tuple[Evidence, bool]], wanted: ScoreName, *, n_fit: int, seed: int) -> Selection:
    """The score that `wanted` asks for, from records that no threshold is tested on.

    `answers` are those of `n_fit` records that can go out alone at all, with whether each is right. Of scores that are
    equally good the plainest is picked.

    Raises ValueError where `wanted` has to be fitted, and all answers are right, or all wrong.
    """
    correct = np.array([right for _, right in answers], dtype=bool)
    fewest = int(min(correct.sum(), (~correct).sum()))
    needed = FOLDS if wanted == "auto" else 1
    if fewest < needed:
        what = "wrong" if fewest == (~correct).sum() else "right"
        found = f"the {n_fit} records to fit the score on have {fewest} {what} answers, and {needed} or more are needed"
        if wanted != "auto":
            raise ValueError(
                f"`evaluation.score: {wanted}` cannot be fitted: {found}; add records, or set"
                " `evaluation.score: sequence_probability`."
            )
        return Selection(score=SEQUENCE_PROBABILITY, n_fit=n_fit, why=f"None could be picked: {found}.", candidates=[])
    return _picked(_measured([evidence for evidence, _ in answers]), correct, wanted, n_fit=n_fit, seed=seed)


Measured = dict[FeatureName, NDArray[np.float64]]
"""Each feature [records]."""


def _picked(measured: Measured, correct: NDArray[np.bool_], wanted: ScoreName, *, n_fit: int, seed: int) -> Selection:
    plain = [
        (score, area_under_risk_coverage(_over(score, measured), correct))
        for score in (FeatureScore(feature=name) for name in measured)
    ]
    best = min(plain, key=lambda scored: scored[1])[0].feature
    fits: dict[str, Callable[[NDArray[np.intp]], Score]] = {
        "isotonic": lambda rows: _isotonic(best, measured[best][rows], correct[rows]),
        "logistic": lambda rows: _logistic({name: values[rows] for name, values in measured.items()}, correct[rows]),
    }
    everything = np.arange(correct.size)
    if wanted != "auto":
        return Selection(score=fits[wanted](everything), n_fit=n_fit, why="The recipe names it.", candidates=[])
    fitted = [
        (name, area_under_risk_coverage(_out_of_fold(fit, measured, correct, seed=seed), correct))
        for name, fit in fits.items()
    ]
    compared = [*((score.name, area) for score, area in plain), *fitted]
    candidates = [Candidate(name=name, area=area) for name, area in compared]
    chosen = min(candidates, key=lambda candidate: candidate.area).name
    return Selection(
        score=fits[chosen](everything) if chosen in fits else FIXED[chosen],
        n_fit=n_fit,
        why=f"It ranks the answers best among {len(candidates)} scores, on {n_fit} records apart.",
        candidates=candidates,
        chance=float(np.mean(~correct)),
    )


def _measured(evidence: Sequence[Evidence]) -> Measured:
    """Every feature that can be had of all records."""
    told = all(each.alternatives is not None for each in evidence)
    return {
        name: np.array([feature.measure(each) for each in evidence])
        for name, feature in FEATURES.items()
        if told or not feature.alternatives
    }


def _over(score: Score, measured: Measured, rows: Iterable[int] | None = None) -> NDArray[np.float64]:
    """The score of each record, or of `rows` alone."""

    def at(row: int) -> float:
        return score.at(lambda name: float(measured[name][row]))

    return np.array([at(row) for row in rows or range(len(next(iter(measured.values()))))])


def _out_of_fold(
    fit: Callable[[NDArray[np.intp]], Score], measured: Measured, correct: NDArray[np.bool_], *, seed: int
) -> NDArray[np.float64]:
    """Each record's score by a fit that has not seen it, [records]."""
    from sklearn.model_selection import StratifiedKFold

    found = np.empty(correct.size)
    for seen, unseen in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(correct, correct):
        found[unseen] = _over(fit(seen), measured, unseen.tolist())
    return found


def _isotonic(name: FeatureName, values: NDArray[np.float64], correct: NDArray[np.bool_]) -> IsotonicScore:
    from sklearn.isotonic import IsotonicRegression

    rises = FEATURES[name].trend == "rises"
    model = IsotonicRegression(y_min=0, y_max=1, increasing=not rises).fit(values, correct)
    knots = zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True)
    return IsotonicScore(feature=name, knots=tuple(knots))


def _logistic(measured: Measured, correct: NDArray[np.bool_]) -> LogisticScore:
    """On the standardised features; one that does not vary is left out."""
    from sklearn.linear_model import LogisticRegression

    varying: list[tuple[FeatureName, float, float]] = [
        (name, float(values.mean()), float(values.std())) for name, values in measured.items() if values.std() > 1e-9
    ]
    if not varying:
        share = float(np.mean(correct))
        return LogisticScore(intercept=float(np.log(share / (1 - share))), terms=())
    columns = np.column_stack([(measured[name] - mean) / scale for name, mean, scale in varying])
    model = LogisticRegression().fit(columns, correct)
    return LogisticScore(
        intercept=float(model.intercept_[0]),
        terms=tuple(
            Term(feature=name, mean=mean, scale=scale, weight=float(weight))
            for (name, mean, scale), weight in zip(varying, model.coef_[0], strict=True)
        ),
    )
