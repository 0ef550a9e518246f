"""Total variation: f-distill, Wen et al. 2023, arXiv:2307.15190."""

from __future__ import annotations

import torch

from stillhouse.losses.outcomes import ABSENT

_ROUNDING = 64
"""Units in the last place that two equal probabilities may differ by after two softmaxes."""


def total_variation(teacher: torch.Tensor, student: torch.Tensor, rest: torch.Tensor | None = None) -> torch.Tensor:
    """½ Σ |p - q|, one value a token, between 0 and 1.

    Its gradient is a sign, which rounding would decide where the two are equal: a difference within rounding is none.

    Args:
        teacher: [tokens, n], log-probabilities p of the outcomes; -inf, or `ABSENT`, where it has none.
        student: [tokens, n], log-probabilities q of the same outcomes.
        rest: [tokens], the student's log-mass on outcomes to which the teacher gives zero, beside the n.

    Returns:
        [tokens].
    """
    p, q = teacher.clamp(min=ABSENT).exp(), student.clamp(min=ABSENT).exp()
    gap = (p - q).abs()
    equal = gap.detach() <= _ROUNDING * torch.finfo(q.dtype).eps * torch.maximum(p, q).detach()
    found = gap.masked_fill(equal, 0.0).sum(-1)
    return 0.5 * (found if rest is None else found + rest.exp())
