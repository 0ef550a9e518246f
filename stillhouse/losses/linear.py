"""The fused head: from hidden states and the head's weight to the loss and its gradients, in chunks of tokens.

The [tokens, vocab] logits of a batch never exist. A chunk's logits are reduced (`outcomes.py`), autograd differentiates
the small graph from there, and the gradient of the whole vocabulary follows in closed form: a token i outside the
support moves the loss F through the tails alone,

    dF/dz_i = Σ_T dF/dtail_T · exp(z_i / T - tail_T) / T,

which is written over the logits themselves and multiplied into the gradients of hidden states and weight. These are
made in the forward pass, as in Liger Kernel (Hsu et al. 2024, arXiv:2410.10989), but in plain torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from stillhouse.losses.exponentials import Exponentials
from stillhouse.losses.mix import Losses, Mix, Objective, Targets
from stillhouse.losses.outcomes import ABSENT, Reduced, Support

_CHUNK_BYTES = 256 * 2**20
"""Of one chunk's logits: enough for the matrix products to run at full speed."""


def linear_distillation_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: Targets,
    objective: Objective,
    *,
    kd_tokens: float,
    ce_tokens: float,
    bias: torch.Tensor | None = None,
    vocabulary: int | None = None,
    chunk: int | None = None,
    choices: bool = False,
) -> Losses:
    """`distillation_loss(hidden @ weight.T + bias, ...)` with its gradients, without these logits.

    The logits are computed in the weight's dtype, and all after them in float32. The weight is read in the forward
    pass alone, so that one which is gathered for a module's forward (ZeRO-3) will do. Gradients are made of what
    requires them: none of a frozen head, and none at all under `no_grad`.

    Args:
        hidden: [tokens, features], at the positions that predict; cast to the weight's dtype.
        weight: [rows, features], float32, bfloat16 or float64; it may be the embedding's too.
        kd_tokens: as in `distillation_loss`.
        ce_tokens: as in `distillation_loss`.
        bias: [rows].
        vocabulary: rows from here on are padding: no probability, zero gradient. Default: every row is a token.
        chunk: tokens whose logits exist at once. Default: as many as take 256 MiB.
        choices: also return the most probable token at each position.

    Returns:
        Losses whose `total` alone carries a gradient, and only once.

    Raises:
        ValueError: both counts are zero; or the weight is float16, in which gradients that are made before the loss is
            scaled would vanish.
    """
    if weight.dtype == torch.float16:
        raise ValueError("the fused head computes in float32 or bfloat16, not in float16")
    mix = Mix(objective, kd_tokens, ce_tokens)
    size = weight.shape[0] if vocabulary is None else vocabulary
    if chunk is None:
        chunk = max(1, _CHUNK_BYTES // (size * _wide(weight).itemsize))
    plan = _Plan(mix, size, chunk, choices, torch.is_grad_enabled())
    total, kd, ce, chosen = _FusedHead.apply(hidden.to(weight.dtype), weight, bias, targets, plan)
    return Losses(total=total, kd=kd, ce=ce, choices=chosen)


def _wide(weight: torch.Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class _Plan:
    """`chunk` tokens at a time, over `size` rows of the weight."""

    mix: Mix
    size: int
    chunk: int
    choices: bool
    gradients: bool


class _FusedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: Targets, plan: _Plan
    ) -> tuple[torch.Tensor | None, ...]:
        wanted = [needed and plan.gradients for needed in ctx.needs_input_grad[:3]]
        batch = _Batch(hidden, weight, bias, plan, wanted)
        chosen = [
            batch.add(slice(start, start + plan.chunk), targets[start : start + plan.chunk])
            for start in range(0, len(hidden), plan.chunk)
        ]
        ctx.gradients = batch.gradients()
        total, kd, ce = batch.sums.unbind()
        choices = torch.cat([targets.ids[:0], *chosen]) if plan.choices else None
        ctx.mark_non_differentiable(kd, ce, *(() if choices is None else (choices,)))
        return total, kd, ce, choices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the fused head's gradients are made once, and were taken: compute the loss again")
        gradients, ctx.gradients = ctx.gradients, None
        # Where it costs no wait for a GPU, a scale of 1 is worth a look: it saves a pass over the weight's gradient.
        if scale.device.type != "cpu" or scale != 1:
            gradients = [None if one is None else one.mul_(scale) for one in gradients]
        return (*gradients, None, None)


class _Batch:
    """The sums and gradients of a batch, to which chunks of it are added.

    Attributes:
        sums: [total, kd, ce].
    """

    def __init__(
        self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, plan: _Plan, wanted: list[bool]
    ) -> None:
        self._hidden, self._plan, self._dtype = hidden, plan, weight.dtype
        self._weight, self._bias = weight[: plan.size], None if bias is None else bias[: plan.size]
        wide = _wide(weight)
        shape = (min(plan.chunk, len(hidden)), plan.size)
        self._logits = torch.empty(shape, dtype=wide, device=hidden.device)
        # What goes into a matrix product or comes out of one, where that is of another type.
        self._typed = (
            self._logits if wide == weight.dtype else torch.empty(shape, dtype=weight.dtype, device=hidden.device)
        )
        self._d_hidden = torch.empty_like(hidden) if wanted[0] else None
        # Chunks add up in float32, as they do inside of one matrix product.
        self._d_weight = torch.empty_like(weight, dtype=wide) if wanted[1] else None
        if self._d_weight is not None:
            # The first chunk writes the others.
            self._d_weight[plan.size if len(hidden) else 0 :] = 0
        self._d_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and wanted[2] else None
        self._differentiates = any(wanted)
        self.sums = torch.zeros(3, dtype=wide, device=hidden.device)

    def add(self, rows: slice, targets: Targets) -> torch.Tensor:
        """Some tokens' losses and gradients; the most probable tokens there, or nothing."""
        hidden, mix = self._hidden[rows], self._plan.mix
        logits = self._project(hidden)
        chosen = logits.argmax(-1) if self._plan.choices else targets.ids[:0]
        # What does not count may be anything, NaN too.
        unused = ((targets.kd == 0) & (targets.ce == 0)).nonzero()[:, 0]
        logits.index_fill_(0, unused, 0.0)
        support = Support.of(targets.ids, targets.top_ids, targets.top_logprobs)
        stored = logits.gather(-1, support.ids)
        rest = Exponentials(logits.scatter_(-1, support.ids, ABSENT), mix.temperatures)
        leaves = [leaf.requires_grad_(self._differentiates) for leaf in (stored, *rest.tails.values())]
        with torch.set_grad_enabled(self._differentiates):
            losses = mix.losses(Reduced(stored, rest.tails), support, targets)
        self.sums += torch.stack([losses.total, losses.kd, losses.ce]).detach()
        if self._differentiates:
            d_stored, *d_tails = torch.autograd.grad(losses.total, leaves, materialize_grads=True)
            rest.gradient_(d_tails)
            # The support's own places hold exact zeros, since their logits were `ABSENT`.
            self._multiply(logits.scatter_add_(-1, support.ids, d_stored), hidden.index_fill(0, unused, 0.0), rows)
        return chosen

    def gradients(self) -> tuple[torch.Tensor | None, ...]:
        """Of hidden states, weight and bias, in the weight's dtype."""
        found = (self._d_hidden, self._d_weight, self._d_bias)
        return tuple(None if one is None else one.to(self._dtype) for one in found)

    def _project(self, hidden: torch.Tensor) -> torch.Tensor:
        """[chunk, size] logits, in the buffer that all chunks share."""
        logits, typed = self._logits[: len(hidden)], self._typed[: len(hidden)]
        torch.mm(hidden, self._weight.t(), out=typed)
        if typed.dtype != logits.dtype:
            logits.copy_(typed)
        return logits if self._bias is None else logits.add_(self._bias)

    def _multiply(self, d_logits: torch.Tensor, hidden: torch.Tensor, rows: slice) -> None:
        """Take the gradient of the logits on to hidden states, weight and bias."""
        typed = self._typed[: len(hidden)]
        if typed.dtype != d_logits.dtype:
            typed.copy_(d_logits)
        if self._d_hidden is not None:
            torch.mm(typed, self._weight, out=self._d_hidden[rows])
        if self._d_weight is not None:
            sums = self._d_weight[: self._plan.size]
            if typed.dtype == sums.dtype:
                sums.addmm_(typed.t(), hidden, beta=int(rows.start > 0))
            elif rows.start:
                sums += torch.mm(typed.t(), hidden)
            else:
                sums.copy_(torch.mm(typed.t(), hidden))
        if self._d_bias is not None:
            self._d_bias[: self._plan.size] += d_logits.sum(0)
