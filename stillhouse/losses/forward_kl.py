"""Forward KL, KL(teacher ‖ student): Hinton et al. 2015, arXiv:1503.02531."""

from __future__ import annotations

import torch

from stillhouse.losses.outcomes import ABSENT


def forward_kl(teacher: torch.Tensor, student: torch.Tensor, rest: torch.Tensor | None = None) -> torch.Tensor:
    """Σ p (log p - log q), one value a token, in nats; it covers all that the teacher says.

    Args:
        teacher: [tokens, n], log-probabilities p of the outcomes; -inf, or `ABSENT`, where it has none.
        student: [tokens, n], log-probabilities q of the same outcomes.
        rest: [tokens], the student's log-mass on outcomes to which the teacher gives zero, beside the n; they add
            nothing here.

    Returns:
        [tokens].
    """
    teacher, student = teacher.clamp(min=ABSENT), student.clamp(min=ABSENT)
    return (teacher.exp() * (teacher - student)).sum(-1)
