"""Scores: from an answer's features to a confidence in [0, 1], as data that `policy.json` can hold."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stillhouse.confidence.evidence import Evidence
from stillhouse.confidence.features import FEATURES, FeatureName, best_to_come


class _Score(BaseModel, ABC):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __call__(self, evidence: Evidence) -> float:
        """The confidence of an answer, in [0, 1]: the greater, the surer.

        Raises ValueError where the evidence lacks the alternatives that the score needs.
        """
        return self.at(lambda name: FEATURES[name].measure(evidence))

    def at(self, feature: Callable[[FeatureName], float]) -> float:
        """The confidence of an answer with these features."""
        return _unit(self._at(feature))

    def upper_bound(self, prefix: Evidence) -> float:
        """The most that the confidence of an answer which begins with `prefix` can become; the gateway may give up
        where that is below the threshold.

        Raises ValueError as a call does.
        """
        return self._bound(lambda name: best_to_come(name, FEATURES[name].measure(prefix)))

    @property
    def needs_alternatives(self) -> bool:
        """Whether the engine has to tell the likeliest tokens at each position."""
        return any(FEATURES[name].alternatives for name in self.used)

    @property
    @abstractmethod
    def name(self) -> str:
        """As the recipe calls it."""

    @property
    @abstractmethod
    def used(self) -> tuple[FeatureName, ...]:
        """The features that it is made from."""

    @property
    @abstractmethod
    def falls(self) -> bool:
        """Whether it can only fall as tokens come, so that a prefix's confidence bounds the whole answer's."""

    def _bound(self, best: Callable[[FeatureName], float]) -> float:
        """From the best that each feature can become; a score in which one counts the other way says something else."""
        return self.at(best)

    @abstractmethod
    def _at(self, feature: Callable[[FeatureName], float]) -> float: ...


class FeatureScore(_Score):
    """One feature as it is, brought to [0, 1] by a fixed function: nothing in it was learned."""

    kind: Literal["feature"] = "feature"
    feature: FeatureName = Field(description="The feature; exp(sum_logprob) is the probability of the whole answer.")

    @property
    def name(self) -> str:
        return "sequence_probability" if self.feature == "sum_logprob" else self.feature

    @property
    def used(self) -> tuple[FeatureName, ...]:
        return (self.feature,)

    @property
    def falls(self) -> bool:
        return FEATURES[self.feature].trend != "either"

    def _at(self, feature: Callable[[FeatureName], float]) -> float:
        return FEATURES[self.feature].unit(feature(self.feature))


class Term(BaseModel):
    """One standardised feature of a logistic score."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    feature: FeatureName
    mean: float = Field(description="Of the feature, over the records that the score was fitted on.")
    scale: float = Field(gt=0, description="Its standard deviation there.")
    weight: float = Field(description="Log-odds a standard deviation.")


class LogisticScore(_Score):
    """The probability that an answer is right, by a logistic regression on several features."""

    kind: Literal["logistic"] = "logistic"
    intercept: float = Field(description="Log-odds of an answer whose features are all at their means.")
    terms: tuple[Term, ...] = Field(description="The features with their weights.")

    @property
    def name(self) -> str:
        return "logistic"

    @property
    def used(self) -> tuple[FeatureName, ...]:
        return tuple(term.feature for term in self.terms)

    @property
    def falls(self) -> bool:
        return all(FEATURES[term.feature].trend != "either" and _rightly_signed(term) for term in self.terms)

    def _bound(self, best: Callable[[FeatureName], float]) -> float:
        # A feature that counts the other way can raise the score without end.
        return self.at(best) if all(map(_rightly_signed, self.terms)) else 1.0

    def _at(self, feature: Callable[[FeatureName], float]) -> float:
        parts = [term.weight * ((feature(term.feature) - term.mean) / term.scale) for term in self.terms]
        odds = math.fsum([self.intercept, *parts])
        return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))


class IsotonicScore(_Score):
    """The probability that an answer is right, by an isotonic regression on one feature: lines between knots."""

    kind: Literal["isotonic"] = "isotonic"
    feature: FeatureName
    knots: tuple[tuple[float, float], ...] = Field(
        min_length=1, description="Pairs of the feature's value, ascending, and the probability there."
    )

    @property
    def name(self) -> str:
        return "isotonic"

    @property
    def used(self) -> tuple[FeatureName, ...]:
        return (self.feature,)

    @property
    def falls(self) -> bool:
        return FEATURES[self.feature].trend != "either"

    @model_validator(mode="after")
    def _is_monotone(self) -> Self:
        if any(right[0] <= left[0] for left, right in pairwise(self.knots)):
            raise ValueError("the knots' values must ascend")
        sign = -1 if FEATURES[self.feature].trend == "rises" else 1
        steps = [sign * (right[1] - left[1]) for left, right in pairwise(self.knots)]
        if any(step < 0 for step in steps) or not all(0 <= y <= 1 for _, y in self.knots):
            raise ValueError("the knots' probabilities must lie in 0..1, and be monotone")
        return self

    def _at(self, feature: Callable[[FeatureName], float]) -> float:
        value = feature(self.feature)
        above = bisect_right(self.knots, value, key=lambda knot: knot[0])
        if above == 0:
            return self.knots[0][1]
        if above == len(self.knots):
            return self.knots[-1][1]
        (x0, y0), (x1, y1) = self.knots[above - 1], self.knots[above]
        return y0 + (y1 - y0) * ((value - x0) / (x1 - x0))


Score = Annotated[FeatureScore | LogisticScore | IsotonicScore, Field(discriminator="kind")]

SEQUENCE_PROBABILITY = FeatureScore(feature="sum_logprob")
"""exp(sum of the token logprobs): the probability that the student gives to the answer it gave."""


def _rightly_signed(term: Term) -> bool:
    """Whether what makes the feature less sure makes the score less sure."""
    return term.weight <= 0 if FEATURES[term.feature].trend == "rises" else term.weight >= 0


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)
