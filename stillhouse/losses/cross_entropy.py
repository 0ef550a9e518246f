"""Cross-entropy on the completion's tokens."""

from __future__ import annotations

import torch


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log p(target), one value a token, in nats.

    Args:
        logits: [tokens, vocab], of any float type.
        targets: [tokens], int64.

    Returns:
        [tokens], float32.
    """
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
