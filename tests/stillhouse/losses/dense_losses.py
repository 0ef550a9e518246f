"""The objectives written out over the whole vocabulary in float64, on torch's own kl_div and cross_entropy."""

from __future__ import annotations

import torch
from torch.nn import functional

from stillhouse.losses.mix import Objective, Targets

KINDS = (
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "skew_kl",
    "skew_reverse_kl",
    "adaptive_kl",
    "total_variation",
)
DEFINED = [
    (kind, tail)
    for tail in ("renormalise", "bucket", "sampled")
    for kind in KINDS
    if tail == "bucket" or kind == "forward_kl" or (tail == "renormalise" and kind not in ("reverse_kl", "adaptive_kl"))
]
"""Every divergence with every tail that it is defined for."""


def kl(of: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """KL(of ‖ to) of probabilities [tokens, outcomes]."""
    return functional.kl_div(to.log(), of, reduction="none").sum(-1)


def divergence(kind: str, p: torch.Tensor, q: torch.Tensor, *, beta: float, skew: float) -> torch.Tensor:
    """Of the teacher's p and the student's q, probabilities [tokens, outcomes]."""
    if kind == "forward_kl":
        return kl(p, q)
    if kind == "reverse_kl":
        return kl(q, p)
    if kind == "jensen_shannon":
        mixture = beta * p + (1 - beta) * q
        return beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)
    if kind == "skew_kl":
        return kl(p, skew * p + (1 - skew) * q)
    if kind == "skew_reverse_kl":
        return kl(q, (1 - skew) * p + skew * q)
    if kind == "adaptive_kl":
        weights = []
        for teacher, gap in zip(p, (p - q).detach().abs(), strict=True):
            held, inside = 0.0, 0.0
            for i in teacher.argsort(descending=True).tolist():
                if held < 0.5:
                    inside += float(gap[i])
                held += float(teacher[i])
            weights.append(inside / float(gap.sum()))
        weight = torch.tensor(weights, dtype=p.dtype)
        return weight * kl(p, q) + (1 - weight) * kl(q, p)
    assert kind == "total_variation"
    return (p - q).abs().sum(-1) / 2


def outcomes(logits: torch.Tensor, targets: Targets, tail: str, temperature: float, token: int) -> list[torch.Tensor]:
    """p and q of one token, [1, outcomes] each."""
    here = torch.isfinite(targets.top_logprobs[token])
    ids, logprobs = targets.top_ids[token][here], targets.top_logprobs[token][here].double()
    if tail != "bucket":
        p = torch.zeros(logits.shape[-1], dtype=torch.float64)
        p[ids] = torch.softmax(logprobs / temperature, -1)
        return [p[None], torch.softmax(logits[token] / temperature, -1)[None]]
    q = torch.softmax(logits[token], -1)
    others = torch.ones(len(q), dtype=torch.bool)
    others[ids] = False
    p, q = logprobs.exp(), torch.cat([q[ids], q[others].sum()[None]])
    left = 1 - p.sum()
    p = torch.cat([p, (left if left > 1e-6 else q[-1].detach().clamp(max=1e-6))[None]])
    if not others.any():
        p, q = p[:-1], q[:-1]
    return [(side ** (1 / temperature) / (side ** (1 / temperature)).sum())[None] for side in (p, q)]


def loss(
    logits: torch.Tensor, targets: Targets, objective: Objective, *, kd_tokens: float, ce_tokens: float
) -> torch.Tensor:
    """What `distillation_loss` should be, token by token, of [tokens, vocab] logits."""
    logits = logits.double()
    total = torch.zeros((), dtype=torch.float64)
    for token in range(len(logits)):
        if targets.ce[token] and ce_tokens:
            found = functional.cross_entropy(logits[token], targets.ids[token])
            total = total + objective.ce_weight * found * targets.ce[token] / ce_tokens
        if targets.kd[token] and kd_tokens and torch.isfinite(targets.top_logprobs[token]).any():
            sides = outcomes(logits, targets, objective.tail, objective.temperature, token)
            one = divergence(objective.divergence, *sides, beta=objective.beta, skew=objective.skew).sum()
            total = total + objective.kd_weight * objective.temperature**2 * one * targets.kd[token] / kd_tokens
    return total


def random_targets(tokens: int, vocabulary: int, k: int, *, seed: int, scale: float = 1.0) -> Targets:
    """A teacher's k most probable tokens, and targets of which most are among them; every token counts."""
    generator = torch.Generator().manual_seed(seed)
    logprobs = torch.log_softmax(torch.randn(tokens, vocabulary, generator=generator, dtype=torch.float64) * scale, -1)
    top_logprobs, top_ids = logprobs.topk(k, dim=-1)
    drawn = torch.multinomial(logprobs.exp(), 1, generator=generator)[:, 0]
    ones = torch.ones(tokens)
    return Targets(ids=drawn, top_ids=top_ids, top_logprobs=top_logprobs.float(), kd=ones, ce=ones.clone())


def ragged(targets: Targets) -> Targets:
    """What may befall nine tokens or more: entries that are absent (id 0), a token without any, targets outside of the
    stored tokens, and tokens that count in one part or in none."""
    top_ids, top_logprobs = targets.top_ids.clone(), targets.top_logprobs.clone()
    ids, kd, ce = targets.ids.clone(), targets.kd.clone(), targets.ce.clone()
    top_ids[1, 1:], top_logprobs[1, 1:] = 0, -torch.inf
    top_ids[2], top_logprobs[2] = 0, -torch.inf
    ids[3], ids[4] = top_ids[3, 0], 0
    top_ids[4, 1:], top_logprobs[4, 1:] = 0, -torch.inf
    kd[5], ce[6], kd[7], ce[7], ce[8] = 0, 0, 0, 0, 0.5
    return Targets(ids=ids, top_ids=top_ids, top_logprobs=top_logprobs, kd=kd, ce=ce)
