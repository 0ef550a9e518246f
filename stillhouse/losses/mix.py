"""The objective: kd_weight · T² · KL + ce_weight · cross-entropy, over the global count of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stillhouse.losses.cross_entropy import cross_entropy
from stillhouse.losses.forward_kl import forward_kl


@dataclass(frozen=True)
class Targets:
    """What the student is held to at the positions that carry loss.

    Attributes:
        ids: [tokens], int64, the completion's tokens.
        top_ids: [tokens, k], int64.
        top_logprobs: [tokens, k], float32, in nats; -inf where there are fewer than k.
        weights: [tokens], float32, 1 for a token that counts and 0 for padding.
    """

    ids: torch.Tensor
    top_ids: torch.Tensor
    top_logprobs: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class Losses:
    """Sums over the tokens that count, divided by the global count; float32 scalars.

    Attributes:
        kd: sum of T² · KL; 0 where `kd_weight` is 0, which takes no distributions.
        ce: sum of the cross-entropy.
        total: the weighted sum of both.
    """

    kd: torch.Tensor
    ce: torch.Tensor
    total: torch.Tensor


def distillation_loss(
    logits: torch.Tensor, targets: Targets, *, kd_weight: float, ce_weight: float, temperature: float, tokens: int
) -> Losses:
    """The mixed loss of one micro-batch.

    Args:
        logits: [tokens, vocab], the student's.
        tokens: the global count of tokens that count, over all micro-batches and ranks of the optimizer step, so
            that every token weighs the same wherever it lies. A micro-batch without any adds exactly zero.

    Raises:
        ValueError: `tokens` is not positive.
    """
    if tokens < 1:
        raise ValueError("a step without a single token has no loss")
    kd = logits.new_zeros((), dtype=torch.float32)
    if kd_weight:
        divergence = forward_kl(logits, targets.top_ids, targets.top_logprobs, temperature=temperature)
        kd = (divergence * targets.weights).sum() / tokens
    ce = (cross_entropy(logits, targets.ids) * targets.weights).sum() / tokens
    return Losses(kd=kd, ce=ce, total=kd_weight * kd + ce_weight * ce)
