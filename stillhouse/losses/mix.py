"""The objective: kd_weight · T² · divergence + ce_weight · cross-entropy, each over its global count of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from stillhouse.losses.cross_entropy import cross_entropy
from stillhouse.losses.divergences import NEED_NO_ZEROS, divergence
from stillhouse.losses.outcomes import Reduced, Support, reduce
from stillhouse.losses.tail import TAILS
from stillhouse.recipe.objective import DivergenceKind, Tail

if TYPE_CHECKING:
    from stillhouse.recipe import Student


@dataclass(frozen=True)
class Targets:
    """What the student is held to at the positions that carry loss.

    Attributes:
        ids: [tokens], int64, the tokens of the cross-entropy.
        top_ids: [tokens, k], int64, the teacher's stored tokens; k may be 0.
        top_logprobs: [tokens, k], float32, in nats; -inf where there are fewer than k.
        kd: [tokens], float32, each token's weight in the divergence, 0 for one that does not count.
        ce: [tokens], float32, the same for the cross-entropy.
    """

    ids: torch.Tensor
    top_ids: torch.Tensor
    top_logprobs: torch.Tensor
    kd: torch.Tensor
    ce: torch.Tensor

    def __getitem__(self, chosen: slice) -> Targets:
        """Some of the tokens."""
        return Targets(*(value[chosen] for value in vars(self).values()))


@dataclass(frozen=True)
class Objective:
    """What is minimised; `Objective.of` takes it from a recipe.

    Raises:
        ValueError: the tail leaves zeros on which the divergence is infinite; or draws, which are unbiased under
            forward KL at a temperature of 1 alone, are held to something else.
    """

    kd_weight: float
    ce_weight: float
    temperature: float = 1.0
    divergence: DivergenceKind = "forward_kl"
    beta: float = 0.5
    skew: float = 0.1
    tail: Tail = "renormalise"

    def __post_init__(self) -> None:
        if not self.kd_weight:
            return
        if self.tail == "renormalise" and self.divergence in NEED_NO_ZEROS:
            raise ValueError(f"{self.divergence} is infinite where the teacher gives zero: take the tail `bucket`")
        if self.tail == "sampled" and (self.divergence != "forward_kl" or self.temperature != 1):
            raise ValueError(
                "draws are unbiased under forward_kl at a temperature of 1 alone, not under"
                f" {self.divergence} at {self.temperature}"
            )

    @classmethod
    def of(cls, student: Student, mode: str) -> Objective:
        """A recipe's objective for signal of a capture's mode (`topk`, `sampled` or `text`)."""
        chosen = student.divergence
        return cls(
            kd_weight=student.kd_weight,
            ce_weight=student.ce_weight,
            temperature=student.temperature,
            divergence=chosen.kind,
            beta=chosen.beta,
            skew=chosen.skew,
            tail=chosen.tail or ("sampled" if mode == "sampled" else "renormalise"),
        )


@dataclass(frozen=True)
class Losses:
    """Sums over the tokens that count, divided by the global counts; scalars, float32 (float64 of float64 logits).

    Attributes:
        total: the weighted sum of both; the one to call `backward` on.
        kd: sum of T² · divergence; 0 where `kd_weight` or `kd_tokens` is 0, which takes no distributions.
        ce: sum of the cross-entropy; 0 where `ce_tokens` is 0.
        choices: [tokens], int64, the student's most probable token at every position that counts; None unless asked.
    """

    total: torch.Tensor
    kd: torch.Tensor
    ce: torch.Tensor
    choices: torch.Tensor | None = None


@dataclass(frozen=True)
class Mix:
    """An objective with the global counts of tokens, for both ways to compute it: this one, and `linear.py`'s.

    Raises:
        ValueError: both counts are zero, or one is negative.
    """

    objective: Objective
    kd_tokens: float
    ce_tokens: float

    def __post_init__(self) -> None:
        if min(self.kd_tokens, self.ce_tokens) < 0 or not self.kd_tokens + self.ce_tokens:
            raise ValueError("a step without a single token has no loss")

    @property
    def distils(self) -> bool:
        """Whether there is a divergence to compute."""
        return bool(self.objective.kd_weight and self.kd_tokens)

    @property
    def temperatures(self) -> tuple[float, ...]:
        """At which the student's tail is needed; the softened one first."""
        softened = self.objective.temperature if self.distils and self.objective.tail == "renormalise" else 1.0
        return tuple(dict.fromkeys((softened, 1.0))) if self.ce_tokens else (softened,)

    def losses(self, reduced: Reduced, support: Support, targets: Targets) -> Losses:
        """The losses of some tokens, from what their logits were reduced to."""
        kd = ce = reduced.logits.new_zeros(())
        if self.distils:
            kd = (self._divergence(reduced, support, targets) * targets.kd).sum() / self.kd_tokens
        if self.ce_tokens:
            found = cross_entropy(reduced, support).masked_fill(targets.ce == 0, 0.0)
            ce = (found * targets.ce).sum() / self.ce_tokens
        return Losses(total=self.objective.kd_weight * kd + self.objective.ce_weight * ce, kd=kd, ce=ce)

    def _divergence(self, reduced: Reduced, support: Support, targets: Targets) -> torch.Tensor:
        """T² · divergence, [tokens]; this is the one place of T², which keeps gradients of one size at any T."""
        of = self.objective
        outcomes = TAILS[of.tail](targets.top_logprobs, reduced, support, of.temperature)
        found = divergence(of.divergence, beta=of.beta, skew=of.skew)(*outcomes)
        # Without a single entry the teacher said nothing.
        silent = ~support.present[:, :-1].any(-1)
        return found.masked_fill(silent | (targets.kd == 0), 0.0) * of.temperature**2


def distillation_loss(
    logits: torch.Tensor, targets: Targets, objective: Objective, *, kd_tokens: float, ce_tokens: float
) -> Losses:
    """The mixed loss of one micro-batch from its logits: the reference that `linear.py` is held to.

    Args:
        logits: [tokens, vocab], the student's, of any float type.
        kd_tokens: the global sum of `targets.kd` over all micro-batches and ranks of the optimizer step, so that every
            token weighs the same wherever it lies; 0 leaves the divergence out. A micro-batch without tokens that
            count adds exactly zero, whatever its logits are.
        ce_tokens: the same for `targets.ce` and the cross-entropy.

    Raises:
        ValueError: both counts are zero.
    """
    mix = Mix(objective, kd_tokens, ce_tokens)
    support = Support.of(targets.ids, targets.top_ids, targets.top_logprobs)
    unused = (targets.kd == 0) & (targets.ce == 0)
    reduced = reduce(logits.masked_fill(unused[:, None], 0.0), support, mix.temperatures)
    return mix.losses(reduced, support, targets)
