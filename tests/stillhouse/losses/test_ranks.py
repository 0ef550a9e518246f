"""Several processes with a share of the tokens each have, added up, the gradients of one process with all of them."""

from __future__ import annotations

from pathlib import Path

import dense_losses as dense
import pytest
import torch
import torch.distributed
import torch.multiprocessing

from stillhouse.losses.linear import linear_distillation_loss
from stillhouse.losses.mix import Losses, Objective, Targets, distillation_loss

TOKENS, FEATURES, VOCABULARY = 12, 6, 30
OBJECTIVE = Objective(kd_weight=0.7, ce_weight=0.3, temperature=2.0, divergence="jensen_shannon", tail="bucket")
# Each rank's micro-batches; one of them is empty, and the tokens that count are spread unevenly.
SHARES = {1: [[slice(0, 5), slice(5, 12)]], 2: [[slice(0, 7), slice(7, 8)], [slice(8, 12), slice(12, 12)]]}


def _problem() -> tuple[torch.Tensor, torch.Tensor, Targets]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    embedding = torch.randn(VOCABULARY, FEATURES, generator=generator).requires_grad_()
    return inputs, embedding, dense.ragged(dense.random_targets(TOKENS, VOCABULARY, 5, seed=0))


def _loss(hidden: torch.Tensor, weight: torch.Tensor, targets: Targets, fused: bool, counts: list[float]) -> Losses:
    words = {"kd_tokens": counts[0], "ce_tokens": counts[1]}
    if fused:
        return linear_distillation_loss(hidden, weight, targets, OBJECTIVE, **words, chunk=2)
    return distillation_loss(hidden @ weight.t(), targets, OBJECTIVE, **words)


def _train(rank: int, world: int, folder: str) -> None:
    """A rank's part of a step of a tied model, an embedding that is the head too, computed both ways."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    inputs, embedding, targets = _problem()
    own = SHARES[world][rank]
    counts = torch.tensor([[float(getattr(targets[part], name).sum()) for part in own] for name in ("kd", "ce")]).sum(1)
    torch.distributed.all_reduce(counts)
    found = []
    for fused in (False, True):
        embedding.grad, parts = torch.zeros_like(embedding), torch.zeros(3)
        for part in own:
            hidden = embedding[inputs[part]].tanh()
            losses = _loss(hidden, embedding, targets[part], fused, counts.tolist())
            losses.total.backward()
            parts += torch.stack([losses.total, losses.kd, losses.ce]).detach()
        for sums in (embedding.grad, parts):
            torch.distributed.all_reduce(sums)
        found.append((parts, embedding.grad))
    if rank == 0:
        torch.save(found, f"{folder}/sums.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_ranks_and_micro_batches_add_up_to_one_process(world: int, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_train, args=(world, str(tmp_path)), nprocs=world)

    inputs, embedding, targets = _problem()
    counts = {"kd_tokens": float(targets.kd.sum()), "ce_tokens": float(targets.ce.sum())}
    expected = dense.loss(embedding[inputs].tanh() @ embedding.t(), targets, OBJECTIVE, **counts)
    expected.backward()
    for parts, gradient in torch.load(tmp_path / "sums.pt"):
        torch.testing.assert_close(parts[0], expected.detach().float())
        torch.testing.assert_close(gradient, embedding.grad, rtol=1e-4, atol=1e-6)
