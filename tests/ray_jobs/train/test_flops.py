"""FLOPs are counted as torch counts them, without touching what is computed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from ray_jobs.train.flops import Counter, peak


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )


def gradients(model: LlamaForCausalLM, counted: Any) -> list[torch.Tensor]:
    """Of one batch with padding."""
    ids = torch.arange(18).view(2, 9) % 16
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    model.zero_grad()
    with counted:
        model(ids, attention_mask=mask).logits.log_softmax(-1)[..., 3].mean().backward()
    return [weights.grad.clone() for weights in model.parameters() if weights.grad is not None]


def test_counts_what_torch_counts_and_changes_no_bit(model: LlamaForCausalLM) -> None:
    counter, reference = Counter(), FlopCounterMode(display=False)
    plain, found = gradients(model, nullcontext()), gradients(model, counter)
    gradients(model, reference)
    assert all(torch.equal(one, other) for one, other in zip(plain, found, strict=True))
    assert counter.total == reference.get_total_flops() > 0


def test_a_cpus_peak_is_measured() -> None:
    flops, measured = peak(torch.device("cpu"))
    assert measured
    assert flops > 1e9
