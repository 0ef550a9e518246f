"""From a few answers to the whole capture: tokens, time and cost, each with a 95% interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stillhouse.check.findings import Interval
from stillhouse.check.inputs import Inputs
from stillhouse.recipe import Recipe
from stillhouse.signal.schema import Completion
from stillhouse.teachers import section_of

if TYPE_CHECKING:
    from stillhouse.check.sample import Asked

_LEVEL = 0.975
"""Each side of a two-sided 95% interval."""


@dataclass(frozen=True)
class Estimates:
    """What one teacher's part of the capture takes.

    Attributes:
        prompt: tokens of one prompt.
        completion: tokens of one completion.
        tokens: prompts and completions together.
        cost: in the recipe's currency, at the Batch API's price where that is asked.
        rate: tokens a second, as measured.
        time: seconds at that rate.
    """

    prompt: float
    completion: Interval
    tokens: Interval
    cost: Interval
    rate: float
    time: Interval


def estimate(recipe: Recipe, inputs: Inputs, asked: Asked) -> Estimates:
    """What the teacher's part of the capture takes, from its sample and from the prompts that were counted.

    Where an endpoint counted the tokens itself, its count is taken: it may use other tokens than those stored, and add
    some of its own to each prompt.
    """
    population = inputs.by_teacher[asked.name]
    given = [each for each in asked.answers if isinstance(each, Completion)]
    all_given = [*given, *(each for each in asked.repeats[:-1] if isinstance(each, Completion))]
    of_prompts, of_completions = 1.0, 1.0
    if asked.billed is not None:
        of_prompts = _scale(asked.billed[0], sum(len(each.prompt_token_ids) for each in all_given))
        of_completions = _scale(asked.billed[1], sum(len(each.token_ids) for each in all_given))
    prompts = [length * of_prompts for length in inputs.of_teacher(asked.name)]
    lengths = [len(each.token_ids) * of_completions if isinstance(each, Completion) else 0.0 for each in asked.answers]

    # A prompt is read once, however many completions are drawn from it.
    draws = recipe.capture.n
    reading, writing = prices_of(recipe, asked.name)
    tokens = total([(1.0, prompts), (draws, lengths)], population)
    cost = total([(reading, prompts), (draws * writing, lengths)], population)
    read = sum(len(each.prompt_token_ids) for each in given) * of_prompts
    rate = (read + sum(lengths)) / max(asked.seconds, 1e-9)
    answered = [length for length, each in zip(lengths, asked.answers, strict=True) if isinstance(each, Completion)]
    return Estimates(
        prompt=float(np.mean(prompts)),
        completion=total([(1 / population, answered)], population),
        tokens=tokens,
        cost=cost,
        rate=rate,
        time=tokens.scaled(1 / rate) if rate else Interval(value=0, low=None, high=None),
    )


def total(parts: Sequence[tuple[float, Sequence[float]]], population: int) -> Interval:
    """The sum over a population of several weighted quantities, each known from a sample of its own.

    A two-sided 95% t-interval: the variance of a mean with the correction for a finite population, the sum's degrees of
    freedom after Welch (1947, doi:10.1093/biomet/34.1-2.28) and Satterthwaite (1946, doi:10.2307/3002019). A sample
    whose values are all equal has no spread to tell of, and adds none.

    Args:
        parts: weight, and the sampled values: at least one.
        population: how many values there are in all.
    """
    value, variance, spread = 0.0, 0.0, 0.0
    for weight, sampled in parts:
        values = np.asarray(sampled, dtype=np.float64)
        scale, n = weight * population, len(values)
        value += scale * float(values.mean())
        unseen = max(0.0, 1 - n / population)
        if n == 1:
            if unseen and weight:
                return Interval(value=value_of(parts, population), low=None, high=None)
            continue
        part = scale**2 * float(values.var(ddof=1)) / n * unseen
        variance += part
        spread += part**2 / (n - 1)
    if not variance:
        return Interval(value=value, low=value, high=value)
    from scipy.stats import t  # most of a second to import

    half = float(t.ppf(_LEVEL, variance**2 / spread)) * math.sqrt(variance)
    return Interval(value=value, low=max(0.0, value - half), high=value + half)


def value_of(parts: Sequence[tuple[float, Sequence[float]]], population: int) -> float:
    """The same sum without its interval."""
    return float(sum(weight * population * np.mean(sampled) for weight, sampled in parts))


def prices_of(recipe: Recipe, name: str) -> tuple[float, float]:
    """What a teacher's capture pays for one prompt token and for one completion token.

    A completion that is scored is read and not written. A price that is not given counts as nothing.
    """
    factor = (1 - recipe.prices.batch_discount if section_of(recipe, name).batch else 1.0) / 1e6
    reading, writing = (recipe.prices.teacher_input or 0.0) * factor, (recipe.prices.teacher_output or 0.0) * factor
    return reading, writing if recipe.capture.completions == "teacher" else reading


def _scale(billed: int, counted: int) -> float:
    return billed / counted if counted else 1.0
