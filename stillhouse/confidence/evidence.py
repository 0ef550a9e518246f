"""What an engine tells of an answer beside its text: the logprobs that a confidence is made from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# float32 log-softmax rounds to a hair above 0; anything beyond this is not a logprob.
_ROUNDING = 1e-3

FLOOR = -9999.0
"""What vLLM's API says in place of minus infinity; so low that both have a probability of 0."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The logprobs of one answer, checked; `of` makes it.

    Attributes:
        token_logprobs: [tokens] natural logarithms within `FLOOR` and 0, the end of the sequence included where the
            engine reports it. For a task of kind `choices` vLLM is held to the choices and masks before the softmax, so
            their sum is the logarithm of the answer's probability among the choices.
        alternatives: [tokens, 1..k] the likeliest tokens' logprobs at each position, in rank order, without what the
            task's contract rules out; None where the engine was not asked.
    """

    token_logprobs: tuple[float, ...]
    alternatives: tuple[tuple[float, ...], ...] | None = None

    @classmethod
    def of(cls, token_logprobs: Sequence[float], alternatives: Sequence[Iterable[float]] | None = None) -> Evidence:
        """Checked evidence.

        Raises ValueError for an answer without tokens, for NaN, for values that are not logprobs (above 0), and for
        alternatives that are missing at a position: each would otherwise turn into a confidence that decides who
        answers.
        """
        if len(token_logprobs) == 0:
            raise ValueError("The confidence of an answer without tokens is undefined: it has no logprobs.")
        written = tuple(_checked(value, position) for position, value in enumerate(token_logprobs))
        if alternatives is None:
            return cls(written)
        if len(alternatives) != len(written):
            raise ValueError(f"There are alternatives for {len(alternatives)} tokens of {len(written)}.")
        ranked = []
        for position, values in enumerate(alternatives):
            found = [_checked(value, position) for value in values]
            possible = sorted((value for value in found if value > FLOOR), reverse=True)
            if not possible:
                raise ValueError(f"Token {position} comes without its alternatives, so the answer has no confidence.")
            ranked.append(tuple(possible))
        return cls(written, tuple(ranked))

    def first(self, tokens: int) -> Evidence:
        """That of the first `tokens` tokens; of a shorter answer all there is."""
        others = None if self.alternatives is None else self.alternatives[:tokens]
        return Evidence(self.token_logprobs[:tokens], others)


def _checked(logprob: float, position: int) -> float:
    if math.isnan(logprob):
        raise ValueError(f"The logprob of token {position} is NaN, so the answer has no confidence.")
    if logprob > _ROUNDING:
        raise ValueError(f"The logprob of token {position} is {logprob:g}; a logprob cannot be above 0.")
    return min(max(logprob, FLOOR), 0.0)
