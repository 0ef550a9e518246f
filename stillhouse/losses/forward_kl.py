"""Forward KL between a teacher's sparse distribution and a student's logits (Hinton et al. 2015, arXiv:1503.02531)."""

from __future__ import annotations

import torch


def forward_kl(
    logits: torch.Tensor, top_ids: torch.Tensor, top_logprobs: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """T² · KL(teacher_T ‖ student_T), one value a token, in nats.

    The tail is treated as `renormalise`: the teacher's probability is spread over its stored tokens alone and is
    zero elsewhere; the student's is normalised over the whole vocabulary. That is the exact divergence where the
    stored tokens hold all of the teacher's mass, as under structured outputs.

    Args:
        logits: [tokens, vocab], the student's, of any float type.
        top_ids: [tokens, k], int64, the teacher's stored tokens.
        top_logprobs: [tokens, k], the teacher's raw logprobs in nats; -inf where there are fewer than k. A token
            without any, whose distribution the teacher did not tell, has a divergence of zero.
        temperature: softens both sides.

    Returns:
        [tokens], float32.
    """
    student = torch.log_softmax(logits.float() / temperature, dim=-1).gather(-1, top_ids)
    teacher = torch.log_softmax(top_logprobs.float() / temperature, dim=-1)
    # Padding, and what is so improbable that it has no place in float32 once it is softened.
    absent = torch.isneginf(teacher) | torch.isneginf(top_logprobs)
    # Masked before exp and before the product: 0 · -inf would be NaN.
    teacher = teacher.masked_fill(absent, 0.0)
    weight = teacher.exp().masked_fill(absent, 0.0)
    return (weight * (teacher - student)).sum(-1) * temperature**2
