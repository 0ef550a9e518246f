"""What a loss needs of the student's logits: those of a few tokens, and the mass of all the others.

A teacher's signal names at most k tokens of a vocabulary. Every divergence from it, and the cross-entropy, depends on
the student's [tokens, vocab] logits through no more than the logits of these k tokens and of the target, and the
log-mass of the rest. Reduced to that once, a loss is a small graph that autograd differentiates, and the gradient of
the whole vocabulary follows from it in closed form (`linear.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

ABSENT = -1e30
"""The logarithm of no probability at all: its exp is exactly zero, and unlike -inf it has no NaN in its gradients."""


@dataclass(frozen=True)
class Support:
    """The tokens that are looked at one by one.

    Attributes:
        ids: [tokens, k + 1], int64; the stored tokens, then the target. An absent entry repeats the target.
        present: [tokens, k + 1], bool; each token is present once: absent entries are not, nor the target's own column
            where it is among the stored tokens.
    """

    ids: torch.Tensor
    present: torch.Tensor

    @classmethod
    def of(cls, ids: torch.Tensor, top_ids: torch.Tensor, top_logprobs: torch.Tensor) -> Support:
        """The support of targets [tokens], stored tokens [tokens, k] and their logprobs, -inf where absent."""
        target = ids[:, None]
        stored = top_logprobs > ABSENT / 2
        alone = ~(stored & (top_ids == target)).any(-1, keepdim=True)
        filled = torch.where(stored, top_ids, target)
        return cls(torch.cat([filled, target], -1), torch.cat([stored, alone], -1))


@dataclass(frozen=True)
class Reduced:
    """A student's logits, reduced to a support.

    Attributes:
        logits: [tokens, k + 1], those of the support's ids.
        tails: temperature -> [tokens], logsumexp of logits / temperature over all tokens outside the support; `ABSENT`
            or less where there is none.
    """

    logits: torch.Tensor
    tails: Mapping[float, torch.Tensor]

    def logprobs(self, support: Support, temperature: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The student's distribution at a temperature.

        Returns:
            Log-probabilities of the stored tokens [tokens, k], `ABSENT` where they are absent; of all other tokens
            together [tokens]; and of the target [tokens].
        """
        scaled = self.logits / temperature
        once = scaled.masked_fill(~support.present, ABSENT)
        total = torch.logsumexp(torch.cat([once, self.tails[temperature][:, None]], -1), -1)
        others = torch.logaddexp(once[:, -1], self.tails[temperature])
        return once[:, :-1] - total[:, None], others - total, scaled[:, -1] - total


def reduce(logits: torch.Tensor, support: Support, temperatures: Sequence[float]) -> Reduced:
    """Reduce [tokens, vocab] logits, with autograd; bfloat16 is widened to float32 first.

    The rest is summed up itself, and never found as 1 - sum: a rest of 1e-12 keeps all its digits.
    """
    wide = widened(logits)
    rest = wide.scatter(-1, support.ids, ABSENT)
    tails = {temperature: torch.logsumexp(rest / temperature, -1) for temperature in temperatures}
    return Reduced(wide.gather(-1, support.ids), tails)


def widened(values: torch.Tensor) -> torch.Tensor:
    """float32 of anything narrower; float64 stays."""
    return values if values.dtype == torch.float64 else values.float()
