"""The losses against independent dense computations, in value and in gradients."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.losses.cross_entropy import cross_entropy
from stillhouse.losses.forward_kl import forward_kl
from stillhouse.losses.mix import Targets, distillation_loss
from stillhouse.losses.shift import predicting_positions

VOCABULARY = 50


def _sparse(logprobs: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    values, ids = logprobs.topk(k, dim=-1)
    return ids, values


def _dense_kl(logits: np.ndarray, ids: np.ndarray, logprobs: np.ndarray, temperature: float) -> np.ndarray:
    """The definition, in float64 over the whole vocabulary: sum p (log p - log q), times T²."""
    found = []
    for token in range(len(logits)):
        teacher = np.zeros(logits.shape[1])
        teacher[ids[token]] = scipy.special.softmax(logprobs[token] / temperature)
        student = scipy.special.softmax(logits[token].astype(np.float64) / temperature)
        found.append(scipy.special.rel_entr(teacher, student).sum() * temperature**2)
    return np.array(found)


@given(
    seed=st.integers(0, 2**31 - 1),
    k=st.integers(1, VOCABULARY),
    temperature=st.sampled_from([0.5, 1.0, 2.0, 10.0]),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
@settings(max_examples=60, deadline=None)
def test_forward_kl_is_the_dense_definition(seed: int, k: int, temperature: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, VOCABULARY, generator=generator) * scale
    ids, logprobs = _sparse(torch.log_softmax(torch.randn(4, VOCABULARY, generator=generator) * scale, -1), k)

    ours = forward_kl(logits, ids, logprobs, temperature=temperature)

    expected = _dense_kl(logits.numpy(), ids.numpy(), logprobs.numpy(), temperature)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_forward_kl_gradients_are_those_of_torch_s_dense_kl(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.log_softmax(torch.randn(6, VOCABULARY, generator=generator), -1)
    start = torch.randn(6, VOCABULARY, generator=generator)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()

    forward_kl(ours, *_sparse(teacher, VOCABULARY), temperature=temperature).sum().backward()
    torch.nn.functional.kl_div(
        torch.log_softmax(theirs / temperature, -1),
        torch.log_softmax(teacher / temperature, -1),
        reduction="sum",
        log_target=True,
    ).mul(temperature**2).backward()

    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_student_equal_to_the_teacher_has_no_divergence_and_no_gradient(temperature: float) -> None:
    logits = torch.randn(5, VOCABULARY, generator=torch.Generator().manual_seed(1)).requires_grad_()
    ids, logprobs = _sparse(torch.log_softmax(logits.detach(), -1), VOCABULARY)

    loss = forward_kl(logits, ids, logprobs, temperature=temperature)
    loss.sum().backward()

    assert loss.abs().max() < 1e-5
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-5


def test_absent_entries_change_nothing_and_stay_finite() -> None:
    logits = torch.randn(2, VOCABULARY, generator=torch.Generator().manual_seed(2)).requires_grad_()
    ids, logprobs = torch.tensor([[3, 7], [5, 6]]), torch.log(torch.tensor([[0.6, 0.4], [0.9, 0.1]]))
    padded_ids = torch.cat([ids, torch.zeros(2, 3, dtype=torch.int64)], -1)
    padded = torch.cat([logprobs, torch.full((2, 3), -torch.inf)], -1)

    loss = forward_kl(logits, padded_ids, padded, temperature=2.0)
    loss.sum().backward()

    torch.testing.assert_close(loss, forward_kl(logits, ids, logprobs, temperature=2.0))
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_a_token_too_improbable_for_float32_is_as_if_absent() -> None:
    logits = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(9)).requires_grad_()
    ids = torch.tensor([[3, 7]])

    loss = forward_kl(logits, ids, torch.tensor([[0.0, -3e38]]), temperature=0.5)
    loss.sum().backward()

    torch.testing.assert_close(loss, forward_kl(logits, ids, torch.tensor([[0.0, -torch.inf]]), temperature=0.5))
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_bfloat16_logits_are_widened_before_the_softmax() -> None:
    logits = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(3)).bfloat16()
    ids, logprobs = _sparse(torch.log_softmax(torch.randn(3, VOCABULARY), -1), 4)

    assert forward_kl(logits, ids, logprobs, temperature=1.0).dtype == torch.float32
    torch.testing.assert_close(
        cross_entropy(logits, torch.tensor([1, 2, 3])),
        -torch.log_softmax(logits.float(), -1)[torch.arange(3), [1, 2, 3]],
    )


def _targets(tokens: int, seed: int) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.log_softmax(torch.randn(tokens, VOCABULARY, generator=generator), -1)
    ids, logprobs = _sparse(teacher, 5)
    return Targets(ids=ids[:, 0], top_ids=ids, top_logprobs=logprobs, weights=torch.ones(tokens))


def _part(targets: Targets, chosen: slice) -> Targets:
    return Targets(**{name: value[chosen] for name, value in vars(targets).items()})


def test_uneven_micro_batches_add_up_to_the_whole() -> None:
    weights = {"kd_weight": 0.7, "ce_weight": 0.3, "temperature": 2.0}
    targets = _targets(10, 4)
    start = torch.randn(10, VOCABULARY, generator=torch.Generator().manual_seed(5))
    whole, parts = start.clone().requires_grad_(), start.clone().requires_grad_()

    total = distillation_loss(whole, targets, **weights, tokens=10).total
    total.backward()
    added = [
        distillation_loss(parts[chosen], _part(targets, chosen), **weights, tokens=10).total
        for chosen in (slice(0, 7), slice(7, 8), slice(8, 10))
    ]
    sum(added, torch.zeros(())).backward()

    torch.testing.assert_close(sum(added, torch.zeros(())), total)
    torch.testing.assert_close(parts.grad, whole.grad)


def test_a_micro_batch_without_tokens_that_count_adds_exactly_zero() -> None:
    targets = _targets(3, 6)
    logits = torch.randn(3, VOCABULARY).requires_grad_()
    nothing = Targets(**{**vars(targets), "weights": torch.zeros(3)})

    losses = distillation_loss(logits, nothing, kd_weight=0.7, ce_weight=0.3, temperature=2.0, tokens=8)
    losses.total.backward()

    assert losses.total.item() == 0.0
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad) == 0


def test_the_mix_weighs_its_parts() -> None:
    targets, logits = _targets(4, 7), torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(8))

    losses = distillation_loss(logits, targets, kd_weight=0.7, ce_weight=0.3, temperature=2.0, tokens=4)

    kl = forward_kl(logits, targets.top_ids, targets.top_logprobs, temperature=2.0).mean()
    ce = torch.nn.functional.cross_entropy(logits, targets.ids)
    torch.testing.assert_close(losses.total, 0.7 * kl + 0.3 * ce)
    with pytest.raises(ValueError, match="single token"):
        distillation_loss(logits, targets, kd_weight=1, ce_weight=0, temperature=1, tokens=0)


def test_the_shift_is_that_of_a_causal_language_model() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    ).eval()
    prompt, completion = [3, 9, 4, 11], [7, 2, 5]
    ids = torch.tensor([prompt + completion])
    # transformers shifts by itself: labels of -100 carry no loss.
    theirs = model(input_ids=ids, labels=torch.tensor([[-100] * len(prompt) + completion])).loss

    positions = list(predicting_positions(len(prompt), len(completion)))
    logits = model(input_ids=ids).logits[0, positions]

    torch.testing.assert_close(cross_entropy(logits, torch.tensor(completion)).mean(), theirs)
    with pytest.raises(ValueError, match="nothing predicts"):
        predicting_positions(0, 2)
