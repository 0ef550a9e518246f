"""The model with its loss: packed like padded, fused like plain, and no sequence sees another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ray_jobs.train.batches import collate
from ray_jobs.train.module import DistilledModel
from ray_jobs.train.records import Example
from stillhouse.losses.mix import Objective
from stillhouse.signal.sparse import SparseSignal

VOCABULARY = 40


def _llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, **{**sizes, **changes}))


def _windowed() -> Any:
    """Attention that reaches four tokens back alone, in its last layer."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=1,
    )
    return Qwen2ForCausalLM(config)


def _examples(count: int = 4) -> list[Example]:
    generator = np.random.default_rng(0)
    found = []
    for i in range(count):
        prompt, completion = (generator.integers(0, VOCABULARY, n).astype(np.int32) for n in (3 + 2 * i, 2 + i % 2))
        ids = [generator.choice(VOCABULARY, 5, replace=False).tolist() for _ in completion]
        signal = SparseSignal.of(ids, [np.log(generator.dirichlet(np.ones(6))[:5]).tolist() for _ in completion])
        found.append(Example(prompt, completion, signal, cross_entropy=True))
    return found


def _module(model: Any, *, fused: bool = True, **objective: Any) -> DistilledModel:
    made = Objective(**{"kd_weight": 0.7, "ce_weight": 0.3, "temperature": 2.0, **objective})
    return DistilledModel(model, made, vocabulary=VOCABULARY, fused=fused)


def _gradients(model: Any, examples: list[Example], **given: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    packing = given.pop("packing", False)
    batch = collate(examples, pad_id=0, packing=packing)
    model.zero_grad()
    total, *_ = _module(model, **given)(batch, 10, 10)
    total.backward()
    return total.detach(), {name: value.grad.clone() for name, value in model.named_parameters()}


def _same(one: tuple[Any, dict[str, Any]], other: tuple[Any, dict[str, Any]]) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-6)
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [_llama, _windowed], ids=["causal", "sliding-window"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packing_changes_neither_loss_nor_gradients(make: Callable[..., Any], attention: str) -> None:
    model = make()
    model.set_attn_implementation(attention)
    _same(_gradients(model, _examples(), packing=True), _gradients(model, _examples()))


def test_a_packed_sequence_does_not_see_the_others() -> None:
    model = _llama().eval()
    own, *others = _examples(3)
    changed = [Example(one.prompt[::-1].copy(), one.completion, one.signal, True) for one in others]

    def hidden(examples: list[Example]) -> torch.Tensor:
        batch = collate(examples, pad_id=0, packing=True)
        # With a cache transformers would not look for packed sequences.
        found = model.model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False)
        return found.last_hidden_state[0, sum(map(len, examples[:-1])) :]

    with torch.no_grad():
        torch.testing.assert_close(hidden([*others, own]), hidden([*changed, own]))
        torch.testing.assert_close(hidden([*others, own]), hidden([own]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["forward_kl", "jensen_shannon", "reverse_kl"])
def test_the_fused_head_is_the_model_with_the_plain_loss(tied: bool, kind: str) -> None:
    model = _llama(tie_word_embeddings=tied)
    tail = "bucket" if kind == "reverse_kl" else "renormalise"
    _same(*(_gradients(model, _examples(), fused=fused, divergence=kind, tail=tail) for fused in (True, False)))


def test_choices_are_the_most_probable_tokens() -> None:
    model, batch = _llama(), collate(_examples(), pad_id=0)
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[batch.rows, batch.columns]
    for fused in (True, False):
        *_, chosen = _module(model, fused=fused)(batch, 10, 10, choices=True)
        assert chosen.tolist() == logits.argmax(-1).tolist()
