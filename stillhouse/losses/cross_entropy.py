"""Cross-entropy on the target's tokens."""

from __future__ import annotations

import torch

from stillhouse.losses.outcomes import Reduced, Support


def cross_entropy(reduced: Reduced, support: Support) -> torch.Tensor:
    """-log q(target) at a temperature of 1, one value a token, in nats.

    Args:
        reduced: the student's logits, with a tail at the temperature 1.
        support: whose last column is the target.

    Returns:
        [tokens].
    """
    return -reduced.logprobs(support, 1.0)[2]
