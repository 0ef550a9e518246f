"""Skew KL and skew reverse KL: DistiLLM, Ko et al. 2024, arXiv:2402.03898, section 3.1."""

from __future__ import annotations

import math

import torch

from stillhouse.losses.outcomes import ABSENT


def skew_kl(
    teacher: torch.Tensor, student: torch.Tensor, rest: torch.Tensor | None = None, *, skew: float = 0.1
) -> torch.Tensor:
    """KL(p ‖ λp + (1 - λ)q), one value a token, in nats; the teacher's share λ bounds it by -log λ.

    Args:
        teacher: [tokens, n], log-probabilities p of the outcomes; -inf, or `ABSENT`, where it has none.
        student: [tokens, n], log-probabilities q of the same outcomes.
        rest: [tokens], the student's log-mass on outcomes to which the teacher gives zero, beside the n; they add
            nothing here.
        skew: λ, between 0 and 1, exclusive.

    Returns:
        [tokens].
    """
    return _skewed(teacher.clamp(min=ABSENT), student.clamp(min=ABSENT), skew)


def skew_reverse_kl(
    teacher: torch.Tensor, student: torch.Tensor, rest: torch.Tensor | None = None, *, skew: float = 0.1
) -> torch.Tensor:
    """KL(q ‖ (1 - λ)p + λq), one value a token, in nats; defined where the teacher has zero, thanks to the λ of q.

    Args:
        teacher: [tokens, n], log-probabilities p of the outcomes; -inf, or `ABSENT`, where it has none.
        student: [tokens, n], log-probabilities q of the same outcomes.
        rest: [tokens], the student's log-mass on outcomes to which the teacher gives zero, beside the n.
        skew: λ, between 0 and 1, exclusive.

    Returns:
        [tokens].
    """
    found = _skewed(student.clamp(min=ABSENT), teacher.clamp(min=ABSENT), skew)
    # Where the teacher has zero, q over its mixture is 1 / λ whatever q is.
    return found if rest is None else found - math.log(skew) * rest.exp()


def _skewed(first: torch.Tensor, second: torch.Tensor, skew: float) -> torch.Tensor:
    """KL of the first from `skew` of itself and the remainder of the second."""
    mixture = torch.logaddexp(first + math.log(skew), second + math.log1p(-skew))
    return (first.exp() * (first - mixture)).sum(-1)
