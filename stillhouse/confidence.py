"""How sure the student is of a whole answer, from the logprobs of its tokens."""

import math
from collections.abc import Sequence

# float32 log-softmax rounds to a hair above 0; anything beyond this is not a logprob.
_ROUNDING = 1e-3


def sequence_confidence(token_logprobs: Sequence[float]) -> float:
    """Probability that the student gives to the answer it gave: exp(sum of the token logprobs), in [0, 1].

    `token_logprobs` are natural logarithms, one for each generated token, the end of sequence included when
    the engine reports it. For a task of kind `choices` the engine is constrained to the choices and masks
    before the softmax, so this is the probability of the answer among the choices.

    Raises ValueError for an empty sequence, for NaN and for values that are not logprobs (above 0): each
    would otherwise turn into a confidence that decides who answers.
    """
    if len(token_logprobs) == 0:
        raise ValueError("The confidence of an answer without tokens is undefined: token_logprobs is empty.")
    for position, logprob in enumerate(token_logprobs):
        if math.isnan(logprob):
            raise ValueError(f"The logprob of token {position} is NaN, so the answer has no confidence.")
        if logprob > _ROUNDING:
            raise ValueError(f"The logprob of token {position} is {logprob:g}; a logprob cannot be above 0.")
    return min(1.0, math.exp(math.fsum(token_logprobs)))
