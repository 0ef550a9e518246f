"""Adaptive KL: AKL, Wu et al. 2024, arXiv:2404.02657, section 4."""

from __future__ import annotations

import torch

from stillhouse.losses.forward_kl import forward_kl
from stillhouse.losses.outcomes import ABSENT
from stillhouse.losses.reverse_kl import reverse_kl

_HEAD = 0.5
"""The paper's μ: the head is the fewest outcomes that hold so much of the teacher's probability."""


def adaptive_kl(teacher: torch.Tensor, student: torch.Tensor, rest: torch.Tensor | None = None) -> torch.Tensor:
    """w · forward KL + (1 - w) · reverse KL, one value a token, in nats.

    w is the head's share of Σ|p - q|: forward KL mends the head first, and reverse KL the tail. It is a weight, and
    carries no gradient; where the two sides are equal it is one half.

    Args:
        teacher: [tokens, n], log-probabilities p of the outcomes; zero only where the student's is zero too.
        student: [tokens, n], log-probabilities q of the same outcomes.
        rest: must be None.

    Returns:
        [tokens].

    Raises:
        ValueError: there is a rest, on which reverse KL is infinite.
    """
    if rest is not None:
        raise ValueError("adaptive KL holds reverse KL, which is infinite where the teacher gives no probability")
    with torch.no_grad():
        probability = teacher.clamp(min=ABSENT).exp()
        gap = (probability - student.clamp(min=ABSENT).exp()).abs()
        ranked, order = probability.sort(dim=-1, descending=True)
        before = ranked.cumsum(-1) - ranked
        head = (gap.gather(-1, order) * (before < _HEAD)).sum(-1)
        whole = gap.sum(-1)
        weight = torch.where(whole > 0, head / whole, 0.5)
    return weight * forward_kl(teacher, student) + (1 - weight) * reverse_kl(teacher, student)
