"""The fused head against the same loss from logits, in value and in every gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dense_losses as dense
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from stillhouse.losses.linear import linear_distillation_loss
from stillhouse.losses.mix import Losses, Objective, Targets, distillation_loss

TOKENS, FEATURES, VOCABULARY = 11, 8, 40
COUNTS = {"kd_tokens": 7.0, "ce_tokens": 5.0}
OBJECTIVE = Objective(kd_weight=0.7, ce_weight=0.3, temperature=2.0)
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 4e-2}


def _objective(kind: str, tail: str, temperature: float) -> Objective:
    return Objective(0.7, 0.3, 1.0 if tail == "sampled" else temperature, kind, beta=0.3, skew=0.2, tail=tail)  # type: ignore[arg-type]


def _inputs(dtype: torch.dtype = torch.float32, *, seed: int = 0, scale: float = 1.0) -> list[torch.Tensor]:
    """Hidden states, weight and bias."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((TOKENS, FEATURES), (VOCABULARY, FEATURES), (VOCABULARY,))
    return [(torch.randn(*shape, generator=generator) * scale**0.5).to(dtype).requires_grad_() for shape in shapes]


def _copies(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [one.detach().clone().requires_grad_(one.requires_grad) for one in tensors]


def _targets(k: int = 5, *, seed: int = 0, tail: str = "renormalise") -> Targets:
    targets = dense.ragged(dense.random_targets(TOKENS, VOCABULARY, k, seed=seed))
    if tail != "sampled":
        return targets
    shares = torch.log_softmax(targets.top_logprobs, -1).nan_to_num(nan=-math.inf, neginf=-math.inf)
    return Targets(**{**vars(targets), "top_logprobs": shares})


def _reference(tensors: list[torch.Tensor], targets: Targets, objective: Objective) -> Losses:
    hidden, weight, bias = tensors
    return distillation_loss(hidden @ weight.t() + bias, targets, objective, **COUNTS)


def _fused(tensors: list[torch.Tensor], targets: Targets, objective: Objective, **options: Any) -> Losses:
    hidden, weight, bias = tensors
    return linear_distillation_loss(hidden, weight, targets, objective, **COUNTS, bias=bias, **options)


@pytest.mark.parametrize(("kind", "tail"), dense.DEFINED)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_loss_and_gradients_are_those_from_logits(kind: str, tail: str, temperature: float, dtype: torch.dtype) -> None:
    ours, targets = _inputs(dtype), _targets(tail=tail)
    theirs, objective = _copies(ours), _objective(kind, tail, temperature)

    expected = _reference(theirs, targets, objective)
    expected.total.backward()
    found = _fused(ours, targets, objective, chunk=4)
    found.total.backward()

    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    for name in ("total", "kd", "ce"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), **close)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        assert mine.grad.dtype == dtype
        torch.testing.assert_close(mine.grad, other.grad, **close)


@given(
    case=st.sampled_from(dense.DEFINED),
    temperature=st.sampled_from([0.5, 1.0, 2.0, 5.0]),
    chunk=st.integers(1, TOKENS + 2),
    k=st.integers(1, VOCABULARY),
    scale=st.floats(0.1, 30),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=100, deadline=None)
def test_any_chunk_and_any_signal_agree_with_the_reference(
    case: tuple[str, str], temperature: float, chunk: int, k: int, scale: float, seed: int
) -> None:
    ours = _inputs(torch.float64, seed=seed, scale=scale)
    targets, objective = _targets(k, seed=seed, tail=case[1]), _objective(*case, temperature)
    theirs = _copies(ours)

    expected = _reference(theirs, targets, objective).total
    found = _fused(ours, targets, objective, chunk=chunk).total

    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    for mine, other in zip(torch.autograd.grad(found, ours), torch.autograd.grad(expected, theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_the_gradients_are_those_of_finite_differences(temperature: float) -> None:
    targets, objective = _targets(), _objective("skew_reverse_kl", "renormalise", temperature)
    tensors, step = _inputs(torch.float64), 1e-5
    gradients = torch.autograd.grad(_fused(tensors, targets, objective, chunk=3).total, tensors)
    for i, gradient in enumerate(gradients):
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        ahead, behind = (
            _fused([one + by * direction if j == i else one for j, one in enumerate(tensors)], targets, objective).total
            for by in (step, -step)
        )
        torch.testing.assert_close((gradient * direction).sum(), (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("kd_tokens", "ce_tokens"), [(0, 3), (3, 0)])
def test_one_part_alone(kd_tokens: int, ce_tokens: int) -> None:
    ours, targets = _inputs(), _targets()
    theirs = _copies(ours)
    counts = {"kd_tokens": kd_tokens, "ce_tokens": ce_tokens}

    found = linear_distillation_loss(ours[0], ours[1], targets, OBJECTIVE, **counts, bias=ours[2])
    expected = distillation_loss(theirs[0] @ theirs[1].t() + theirs[2], targets, OBJECTIVE, **counts)
    found.total.backward()
    expected.total.backward()

    torch.testing.assert_close(vars(found), vars(expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_padded_rows_get_no_probability_and_no_gradient() -> None:
    """152,064 rows for 151,936 tokens: the others are as if they were not there, whatever they hold."""
    hidden, weight, bias = _inputs()
    with torch.no_grad():
        weight[-6:], bias[-6:] = 1e3, 1e3
    targets = dense.random_targets(TOKENS, VOCABULARY - 6, 5, seed=0)
    theirs = _copies([hidden, weight[:-6], bias[:-6]])

    found = _fused([hidden, weight, bias], targets, OBJECTIVE, vocabulary=VOCABULARY - 6, choices=True)
    expected = _reference(theirs, targets, OBJECTIVE)
    found.total.backward()
    expected.total.backward()

    torch.testing.assert_close(found.total, expected.total)
    assert found.choices is not None
    assert found.choices.max() < VOCABULARY - 6
    for mine, other in zip((hidden, weight, bias), theirs, strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(mine.grad[: len(other.grad)], other.grad)
        assert torch.count_nonzero(mine.grad[len(other.grad) :]) == 0


def test_choices_are_the_most_probable_tokens() -> None:
    hidden, weight, bias = _inputs()
    targets = _targets()

    found = _fused([hidden, weight, bias], targets, OBJECTIVE, chunk=3, choices=True)

    assert torch.equal(found.choices, (hidden @ weight.t() + bias).argmax(-1))
    assert _fused([hidden, weight, bias], targets, OBJECTIVE).choices is None


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_what_needs_no_gradient_gets_none(frozen: tuple[int, ...]) -> None:
    ours = _inputs()
    for i in frozen:
        ours[i].requires_grad_(False)
    theirs = _copies(ours)

    found = _fused(ours, _targets(), OBJECTIVE)
    expected = _reference(theirs, _targets(), OBJECTIVE)

    torch.testing.assert_close(found.total, expected.total)
    assert found.total.requires_grad == (len(frozen) < 3)
    assert not found.kd.requires_grad
    assert not found.ce.requires_grad
    if found.total.requires_grad:
        found.total.backward()
        expected.total.backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_under_no_grad_there_are_values_alone() -> None:
    ours = _inputs()
    with torch.no_grad(), _largest() as seen:
        found = _fused(ours, _targets(), OBJECTIVE, chunk=4)

    torch.testing.assert_close(found.total, _reference(ours, _targets(), OBJECTIVE).total.detach())
    assert not found.total.requires_grad
    assert "aten.addmm_.default" not in seen["operators"]


def test_a_scaled_loss_has_scaled_gradients_and_only_once() -> None:
    ours = _inputs()
    theirs = _copies(ours)

    total = _fused(ours, _targets(), OBJECTIVE).total
    (total * 6).backward(retain_graph=True)
    (_reference(theirs, _targets(), OBJECTIVE).total * 6).backward()

    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    with pytest.raises(RuntimeError, match="made once"):
        total.backward()
    scale = torch.ones((), requires_grad=True)
    again = torch.autograd.grad(_fused(ours, _targets(), OBJECTIVE).total * scale, ours[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        again.sum().backward()


@pytest.mark.parametrize("garbage", [1e30, math.nan])
def test_tokens_that_do_not_count_add_exactly_zero_whatever_they_hold(garbage: float) -> None:
    ours = _inputs()
    targets = dense.random_targets(TOKENS, VOCABULARY, 5, seed=0)
    targets.kd[3:], targets.ce[3:] = 0, 0
    theirs = _copies([ours[0][:3], *ours[1:]])
    with torch.no_grad():
        ours[0][3:] = garbage

    found = _fused(ours, targets, OBJECTIVE, chunk=2)
    expected = _reference(theirs, targets[:3], OBJECTIVE)
    found.total.backward()
    expected.total.backward()

    torch.testing.assert_close(found.total, expected.total)
    assert ours[0].grad is not None
    assert torch.count_nonzero(ours[0].grad[3:]) == 0
    torch.testing.assert_close(ours[0].grad[:3], theirs[0].grad)
    torch.testing.assert_close(ours[1].grad, theirs[1].grad)


def test_no_tokens_add_zero_and_still_have_gradients() -> None:
    hidden, weight, bias = _inputs()

    found = _fused([hidden[:0], weight, bias], _targets()[:0], OBJECTIVE, choices=True)
    found.total.backward()

    assert found.total == 0
    assert found.choices is not None
    assert found.choices.shape == (0,)
    for one in (hidden, weight, bias):
        assert one.grad is not None
        assert torch.count_nonzero(one.grad) == 0


def test_a_student_equal_to_the_teacher_has_no_divergence_and_no_gradient() -> None:
    hidden, weight, bias = _inputs()
    top_logprobs, top_ids = torch.log_softmax((hidden @ weight.t() + bias).detach(), -1).topk(VOCABULARY)
    ones = torch.ones(TOKENS)
    targets = Targets(top_ids[:, 0], top_ids, top_logprobs, kd=ones, ce=ones)

    objective = Objective(kd_weight=1.0, ce_weight=0.0, temperature=2.0)
    found = linear_distillation_loss(hidden, weight, targets, objective, kd_tokens=1, ce_tokens=0, bias=bias)
    found.total.backward()

    assert abs(found.total) < 1e-5
    for one in (hidden, weight, bias):
        assert one.grad is not None
        assert one.grad.abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tied_embeddings_get_both_gradients(dtype: torch.dtype) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    ).to(dtype)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = torch.randint(0, VOCABULARY, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    gradients = []
    for fused in (False, True):
        model.zero_grad()
        hidden = model.model(input_ids=ids).last_hidden_state[0]
        if fused:
            losses = linear_distillation_loss(hidden, model.lm_head.weight, _targets(), OBJECTIVE, **COUNTS, chunk=4)
        else:
            losses = distillation_loss(model.lm_head(hidden), _targets(), OBJECTIVE, **COUNTS)
        losses.total.backward()
        gradients.append({name: one.grad.clone() for name, one in model.named_parameters()})

    torch.testing.assert_close(gradients[1], gradients[0], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_the_logits_of_the_batch_never_exist() -> None:
    tokens, features, vocabulary, chunk = 64, 4, 512, 8
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, features, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, features, generator=generator).requires_grad_()
    targets = dense.random_targets(tokens, vocabulary, 6, seed=0)
    counts = {"kd_tokens": 1, "ce_tokens": 1}

    with _largest() as fused:
        linear_distillation_loss(hidden, weight, targets, OBJECTIVE, **counts, chunk=chunk).total.backward()
    with _largest() as reference:
        distillation_loss(hidden @ weight.t(), targets, OBJECTIVE, **counts).total.backward()

    assert fused["elements"] == chunk * vocabulary
    assert reference["elements"] == tokens * vocabulary


def test_float16_is_refused() -> None:
    with pytest.raises(ValueError, match="not in float16"):
        _fused(_inputs(torch.float16), _targets(), OBJECTIVE)


@contextmanager
def _largest() -> Iterator[dict[str, Any]]:
    """The most elements of any tensor that was made, and the operators that ran, inside of autograd too."""
    seen: dict[str, Any] = {"elements": 0, "operators": set()}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for one in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(one, torch.Tensor):
                    seen["elements"] = max(seen["elements"], one.numel())
            seen["operators"].add(str(func))
            return out

    with Watch():
        yield seen
