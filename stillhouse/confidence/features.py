"""Numbers of an answer that tell how sure the student is of it, from its logprobs alone.

Pure Python: the gateway computes them for every answer, with the very functions that the evaluation used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from stillhouse.confidence.evidence import Evidence

FeatureName = Literal[
    "sum_logprob",
    "mean_logprob",
    "min_logprob",
    "quantile_10",
    "quantile_25",
    "quantile_50",
    "margin",
    "entropy",
    "length",
]


class Feature(NamedTuple):
    """One number of an answer.

    Attributes:
        measure: from the answer's evidence. Raises ValueError where that lacks the alternatives.
        unit: from the number to [0, 1]; the greater, the surer.
        trend: what more tokens can do to it; `either` stays at most 0, as means and quantiles of logprobs do.
        alternatives: whether it needs them.
    """

    measure: Callable[[Evidence], float]
    unit: Callable[[float], float]
    trend: Literal["falls", "rises", "either"]
    alternatives: bool = False


def quantile(evidence: Evidence, share: float) -> float:
    """A quantile of the token logprobs, in nats, interpolated linearly between the two nearest."""
    ordered = sorted(evidence.token_logprobs)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def margin(evidence: Evidence) -> float:
    """Smallest distance, over the positions, between the likeliest token's probability and the second's, 0..1."""
    return min(math.exp(top[0]) - (math.exp(top[1]) if len(top) > 1 else 0.0) for top in _alternatives(evidence))


def entropy(evidence: Evidence) -> float:
    """Sum over the positions of the entropy of the next token, in nats.

    Among choices its mean over answers that are drawn is the entropy over the choices (the chain rule). What the
    alternatives leave out counts as one more token.
    """
    return math.fsum(_entropy(top) for top in _alternatives(evidence))


FEATURES: dict[FeatureName, Feature] = {
    "sum_logprob": Feature(lambda e: math.fsum(e.token_logprobs), math.exp, "falls"),
    "mean_logprob": Feature(lambda e: math.fsum(e.token_logprobs) / len(e.token_logprobs), math.exp, "either"),
    "min_logprob": Feature(lambda e: min(e.token_logprobs), math.exp, "falls"),
    "quantile_10": Feature(lambda e: quantile(e, 0.10), math.exp, "either"),
    "quantile_25": Feature(lambda e: quantile(e, 0.25), math.exp, "either"),
    "quantile_50": Feature(lambda e: quantile(e, 0.50), math.exp, "either"),
    "margin": Feature(margin, lambda value: value, "falls", alternatives=True),
    "entropy": Feature(entropy, lambda value: math.exp(-value), "rises", alternatives=True),
    "length": Feature(lambda e: float(len(e.token_logprobs)), lambda value: 1 / value, "rises"),
}
"""All of them, the plainest first. Logprobs are in nats, `length` is in tokens."""


def best_to_come(name: FeatureName, value: float) -> float:
    """The surest value that the feature can still take, of an answer whose first tokens have `value`."""
    return 0.0 if FEATURES[name].trend == "either" else value


def _alternatives(evidence: Evidence) -> tuple[tuple[float, ...], ...]:
    if evidence.alternatives is None:
        raise ValueError("The answer comes without its alternatives, which the score is made from.")
    return evidence.alternatives


def _entropy(top: tuple[float, ...]) -> float:
    probabilities = [math.exp(logprob) for logprob in top]
    rest = max(0.0, 1.0 - math.fsum(probabilities))
    terms = [-p * logprob for p, logprob in zip(probabilities, top, strict=True)]
    return math.fsum([*terms, -rest * math.log(rest) if rest > 0 else 0.0])
