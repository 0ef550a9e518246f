"""Reverse KL, KL(student ‖ teacher): MiniLLM, Gu et al. 2023, arXiv:2306.08543."""

from __future__ import annotations

import torch

from stillhouse.losses.outcomes import ABSENT


def reverse_kl(teacher: torch.Tensor, student: torch.Tensor, rest: torch.Tensor | None = None) -> torch.Tensor:
    """Σ q (log q - log p), one value a token, in nats; it keeps the student out of what the teacher never says.

    Args:
        teacher: [tokens, n], log-probabilities p of the outcomes; zero only where the student's is zero too.
        student: [tokens, n], log-probabilities q of the same outcomes.
        rest: must be None.

    Returns:
        [tokens].

    Raises:
        ValueError: there is a rest: where the teacher has zero and the student has not, this is infinite.
    """
    if rest is not None:
        raise ValueError("reverse KL is infinite where the student gives probability to what the teacher gives none")
    teacher, student = teacher.clamp(min=ABSENT), student.clamp(min=ABSENT)
    return (student.exp() * (student - teacher)).sum(-1)
