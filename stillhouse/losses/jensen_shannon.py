"""Generalised Jensen-Shannon divergence: GKD, Agarwal et al. 2023, arXiv:2306.13649, equation 1."""

from __future__ import annotations

import math

import torch

from stillhouse.losses.outcomes import ABSENT


def jensen_shannon(
    teacher: torch.Tensor, student: torch.Tensor, rest: torch.Tensor | None = None, *, beta: float = 0.5
) -> torch.Tensor:
    """β KL(p ‖ m) + (1 - β) KL(q ‖ m) with m = βp + (1 - β)q, one value a token, in nats.

    β is the teacher's share of the mixture, as in the paper and in TRL's GKD. Divided by β it tends to forward KL for
    β → 0; divided by 1 - β to reverse KL for β → 1.

    Args:
        teacher: [tokens, n], log-probabilities p of the outcomes; -inf, or `ABSENT`, where it has none.
        student: [tokens, n], log-probabilities q of the same outcomes.
        rest: [tokens], the student's log-mass on outcomes to which the teacher gives zero, beside the n.
        beta: between 0 and 1, exclusive.

    Returns:
        [tokens].
    """
    teacher, student = teacher.clamp(min=ABSENT), student.clamp(min=ABSENT)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    found = beta * teacher.exp() * (teacher - mixture) + (1 - beta) * student.exp() * (student - mixture)
    # Where the teacher has zero, q over its mixture is 1 / (1 - β) whatever q is.
    elsewhere = 0.0 if rest is None else -(1 - beta) * math.log1p(-beta) * rest.exp()
    return found.sum(-1) + elsewhere
