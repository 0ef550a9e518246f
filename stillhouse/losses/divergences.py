"""The divergences by the names that a recipe has for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from stillhouse.losses.adaptive_kl import adaptive_kl
from stillhouse.losses.forward_kl import forward_kl
from stillhouse.losses.jensen_shannon import jensen_shannon
from stillhouse.losses.reverse_kl import reverse_kl
from stillhouse.losses.skew_kl import skew_kl, skew_reverse_kl
from stillhouse.losses.total_variation import total_variation
from stillhouse.recipe.objective import DivergenceKind

Divergence = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""(teacher, student, rest) -> [tokens]; log-probabilities [tokens, n], [tokens, n], and [tokens] or None."""

NEED_NO_ZEROS: tuple[DivergenceKind, ...] = ("reverse_kl", "adaptive_kl")
"""Those that are infinite where the teacher gives zero."""


def divergence(kind: DivergenceKind, *, beta: float = 0.5, skew: float = 0.1) -> Divergence:
    """The function of that name; `beta` and `skew` go to those that have them."""
    found: dict[DivergenceKind, Divergence] = {
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "jensen_shannon": partial(jensen_shannon, beta=beta),
        "skew_kl": partial(skew_kl, skew=skew),
        "skew_reverse_kl": partial(skew_reverse_kl, skew=skew),
        "adaptive_kl": adaptive_kl,
        "total_variation": total_variation,
    }
    return found[kind]
