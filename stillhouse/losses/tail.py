"""What stands for the tokens that the teacher's signal leaves out: three objectives, and no silent fourth.

Each turns the stored logprobs and the student's reduced logits into two distributions over the same outcomes, which
any divergence takes: the teacher's log-probabilities [tokens, n], the student's [tokens, n], and the student's
log-mass [tokens] on what the teacher gives zero, or None where there is nothing like that.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from stillhouse.losses.outcomes import ABSENT, Reduced, Support, widened
from stillhouse.recipe.objective import Tail

Outcomes = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]

_LEAST = 1e-6
"""Least probability of the teacher's unstored tokens: 1 - sum of float32 probabilities knows no smaller one."""


def renormalise(top_logprobs: torch.Tensor, reduced: Reduced, support: Support, temperature: float) -> Outcomes:
    """Zero for all tokens but the stored: exact where these hold all of the mass, as under structured outputs.

    Args:
        top_logprobs: [tokens, k], the teacher's raw logprobs in nats; -inf where absent.
        reduced: with a tail at `temperature`.
        temperature: softens both sides, the teacher's over its stored tokens, the student's over the vocabulary.

    Returns:
        Outcomes over the k stored tokens, and the student's rest.
    """
    teacher = torch.log_softmax(_stored(top_logprobs, support, reduced) / temperature, -1)
    student, rest, _ = reduced.logprobs(support, temperature)
    return teacher, student, rest


def bucket(top_logprobs: torch.Tensor, reduced: Reduced, support: Support, temperature: float) -> Outcomes:
    """One more outcome for all unstored tokens together, of the mass that is left on either side.

    The mass is that at a temperature of 1, since no other is known of the teacher; the n + 1 outcomes are then
    softened and normalised again. At a temperature of 1 this is a lower bound of the divergence over the vocabulary
    (data-processing inequality), exact where all tokens are stored, and zero where both sides agree. Of a teacher
    that leaves less than `_LEAST` no more than that is known: a student that leaves still less is not told to change.

    Args:
        top_logprobs: [tokens, k], the teacher's raw logprobs in nats; -inf where absent.
        reduced: with a tail at a temperature of 1.
        temperature: softens both sides over the outcomes.

    Returns:
        Outcomes over the k stored tokens and the bucket; there is no rest.
    """
    stored = _stored(top_logprobs, support, reduced)
    student, rest, _ = reduced.logprobs(support, 1.0)
    left = _left(stored, rest.detach())
    sides = (torch.cat([stored, left[:, None]], -1), torch.cat([student, rest[:, None]], -1))
    teacher, student = (torch.log_softmax(side / temperature, -1) for side in sides)
    return teacher, student, None


def sampled(top_logprobs: torch.Tensor, reduced: Reduced, support: Support, temperature: float) -> Outcomes:
    """Shares of draws from the whole distribution stand for the distribution.

    Under forward KL, which is linear in them up to a constant, the gradient is unbiased; and under no other.

    Args:
        top_logprobs: [tokens, k], the logarithms of shares that add up to 1; -inf where absent.
        reduced: with a tail at a temperature of 1.
        temperature: 1; the draws were made at that one.

    Returns:
        Outcomes over the k drawn tokens, and the student's rest.

    Raises:
        ValueError: another temperature, at which the draws are biased.
    """
    if temperature != 1:
        raise ValueError(f"draws are unbiased at a temperature of 1 alone, not at {temperature}")
    student, rest, _ = reduced.logprobs(support, 1.0)
    return _stored(top_logprobs, support, reduced), student, rest


TAILS: dict[Tail, Callable[[torch.Tensor, Reduced, Support, float], Outcomes]] = {
    "renormalise": renormalise,
    "bucket": bucket,
    "sampled": sampled,
}
"""The tails by the names that a recipe has for them."""


def _stored(top_logprobs: torch.Tensor, support: Support, reduced: Reduced) -> torch.Tensor:
    """The stored logprobs in the student's dtype, `ABSENT` where there are none."""
    return widened(top_logprobs).to(reduced.logits.dtype).masked_fill(~support.present[:, :-1], ABSENT)


def _left(stored: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """The teacher's log-mass [tokens] outside of its stored logprobs [tokens, k]; `rest` is the student's."""
    held = torch.logsumexp(torch.cat([stored, torch.full_like(stored[:, :1], ABSENT)], -1), -1)
    below = held.clamp(max=math.log1p(-_LEAST))
    # log(1 - exp(held)); either form loses its digits on the other's side.
    left = torch.where(below > -math.log(2), torch.log(-torch.expm1(below)), torch.log1p(-below.exp()))
    left = torch.where(below < held, torch.minimum(left, rest), left)
    # Where every token is stored, nothing is left on either side.
    return torch.where(rest > ABSENT / 2, left, ABSENT)
