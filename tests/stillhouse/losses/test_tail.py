"""Each tail with each divergence it is defined for, against the same over the whole vocabulary in float64."""

from __future__ import annotations

import math

import dense_losses as dense
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.losses.divergences import divergence
from stillhouse.losses.mix import Objective, Targets, distillation_loss
from stillhouse.losses.outcomes import Support, reduce
from stillhouse.losses.tail import bucket, sampled

VOCABULARY, TOKENS = 24, 10


def _objective(kind: str, tail: str, temperature: float = 1.0, **changes: float) -> Objective:
    chosen = {"kd_weight": 0.7, "ce_weight": 0.3, "beta": 0.3, "skew": 0.2, **changes}
    return Objective(divergence=kind, tail=tail, temperature=temperature, **chosen)  # type: ignore[arg-type]


def _logits(seed: int, *, tokens: int = TOKENS, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(tokens, VOCABULARY, generator=generator, dtype=torch.float64) * scale).requires_grad_()


@pytest.mark.parametrize(("kind", "tail"), dense.DEFINED)
@given(
    seed=st.integers(0, 2**31 - 2),
    k=st.integers(1, VOCABULARY),
    temperature=st.sampled_from([0.5, 1.0, 2.0, 3.0, 10.0]),
    scale=st.floats(0.1, 30),
)
@settings(max_examples=25, deadline=None)
def test_value_and_gradients_are_those_over_the_vocabulary(
    kind: str, tail: str, seed: int, k: int, temperature: float, scale: float
) -> None:
    objective = _objective(kind, tail, 1.0 if tail == "sampled" else temperature)
    targets = dense.ragged(dense.random_targets(TOKENS, VOCABULARY, k, seed=seed, scale=scale))
    if tail == "sampled":
        shares = torch.log_softmax(targets.top_logprobs, -1).nan_to_num(nan=-math.inf, neginf=-math.inf)
        targets = Targets(**{**vars(targets), "top_logprobs": shares})
    ours, theirs = _logits(seed + 1, scale=scale), _logits(seed + 1, scale=scale)
    counts = {"kd_tokens": 7.0, "ce_tokens": 5.0}

    found = distillation_loss(ours, targets, objective, **counts).total
    expected = dense.loss(theirs, targets, objective, **counts)

    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(found, ours)[0], torch.autograd.grad(expected, theirs)[0], rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize(("kind", "tail"), dense.DEFINED)
def test_the_gradient_is_that_of_finite_differences(kind: str, tail: str) -> None:
    # Adaptive KL's weights are held still by its definition, which finite differences do not know of.
    if kind == "adaptive_kl":
        objective = _objective("reverse_kl", tail, 2.0)
    else:
        objective = _objective(kind, tail, 1.0 if tail == "sampled" else 2.0)
    targets = dense.random_targets(4, VOCABULARY, 5, seed=1)
    if tail == "sampled":
        targets = Targets(**{**vars(targets), "top_logprobs": torch.log_softmax(targets.top_logprobs, -1)})

    assert torch.autograd.gradcheck(
        lambda logits: distillation_loss(logits, targets, objective, kd_tokens=4, ce_tokens=4).total,
        (_logits(2, tokens=4),),
        fast_mode=True,
    )


@pytest.mark.parametrize("kind", ["forward_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl", "total_variation"])
@pytest.mark.parametrize(("tail", "temperature"), [("renormalise", 1.0), ("renormalise", 2.0), ("bucket", 2.0)])
def test_with_every_token_stored_no_tail_is_left(kind: str, tail: str, temperature: float) -> None:
    targets = dense.random_targets(TOKENS, VOCABULARY, VOCABULARY, seed=0)
    logits = _logits(1)
    objective = _objective(kind, tail, temperature, kd_weight=1.0, ce_weight=0.0)

    found = distillation_loss(logits, targets, objective, kd_tokens=1, ce_tokens=0).total

    order = targets.top_ids.argsort(-1)
    teacher = torch.log_softmax(targets.top_logprobs.double().gather(-1, order) / temperature, -1)
    whole = divergence(kind, beta=0.3, skew=0.2)(teacher, torch.log_softmax(logits / temperature, -1), None)
    torch.testing.assert_close(found, whole.sum() * temperature**2, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", dense.KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_a_student_equal_to_the_teacher_has_no_loss_in_a_bucket(kind: str, temperature: float, scale: float) -> None:
    logits = _logits(3, scale=scale).detach().float().requires_grad_()
    top_logprobs, top_ids = torch.log_softmax(logits.detach(), -1).topk(6)
    ones = torch.ones(TOKENS)
    targets = Targets(top_ids[:, 0], top_ids, top_logprobs, kd=ones, ce=ones)

    objective = _objective(kind, "bucket", temperature, kd_weight=1.0, ce_weight=0.0)
    found = distillation_loss(logits, targets, objective, kd_tokens=TOKENS, ce_tokens=0).total
    found.backward()

    assert abs(found) < 2e-6
    assert logits.grad is not None
    # Total variation has no gradient of its own there, and 1 - sum is not rounded as a sum is.
    assert kind == "total_variation" or logits.grad.abs().max() < 1e-5


@given(
    seed=st.integers(0, 2**31 - 2),
    k=st.integers(1, VOCABULARY - 1),
    # Wider ones leave less than the floor of the teacher's rest.
    scale=st.floats(0.1, 2),
    kind=st.sampled_from([kind for kind in dense.KINDS if kind != "adaptive_kl"]),
)
@settings(max_examples=150, deadline=None)
def test_a_bucket_bounds_the_divergence_from_below_and_more_entries_bring_it_nearer(
    seed: int, k: int, scale: float, kind: str
) -> None:
    objective = _objective(kind, "bucket", kd_weight=1.0, ce_weight=0.0)
    logits = _logits(seed + 1, tokens=1, scale=scale).detach()
    whole = dense.random_targets(1, VOCABULARY, VOCABULARY, seed=seed, scale=scale)

    def of_first(entries: int) -> float:
        targets = Targets(whole.ids, whole.top_ids[:, :entries], whole.top_logprobs[:, :entries], whole.kd, whole.ce)
        return distillation_loss(logits, targets, objective, kd_tokens=1, ce_tokens=0).total.item()

    # The stored logprobs are float32.
    slack = 1e-4
    assert -slack < of_first(k) < of_first(k + 1) + slack
    assert of_first(k) < of_first(VOCABULARY) + slack


def test_draws_have_the_dense_gradient_in_the_mean() -> None:
    tokens, draws = 20_000, 8
    generator = torch.Generator().manual_seed(0)
    teacher = torch.log_softmax(torch.randn(VOCABULARY, generator=generator, dtype=torch.float64) * 2, -1)
    start = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)
    counts = torch.multinomial(teacher.exp().expand(tokens, -1), draws, replacement=True, generator=generator)
    shares = torch.zeros(tokens, VOCABULARY).scatter_add_(1, counts, torch.ones(tokens, draws)) / draws
    ones = torch.ones(tokens)
    everything = torch.arange(VOCABULARY).expand(tokens, -1)
    targets = Targets(everything[:, 0], everything, shares.log(), kd=ones, ce=ones)
    logits = start.expand(tokens, -1).clone().requires_grad_()

    objective = Objective(kd_weight=1.0, ce_weight=0.0, tail="sampled")
    distillation_loss(logits, targets, objective, kd_tokens=1, ce_tokens=0).total.backward()

    assert logits.grad is not None
    expected = torch.softmax(start, -1) - teacher.exp()
    error = logits.grad.std(0) / tokens**0.5
    assert ((logits.grad.mean(0) - expected) / error).abs().max() < 4
    assert (error < 0.01).all()


def test_a_rest_that_float32_cannot_tell_from_nothing_keeps_its_digits() -> None:
    logits = torch.tensor([[0.0, -30.0, -31.0, -32.0]])
    support = Support.of(torch.tensor([0]), torch.tensor([[0]]), torch.zeros(1, 1))

    reduced = reduce(logits, support, (1.0,))
    rest = reduced.logprobs(support, 1.0)[1]

    torch.testing.assert_close(rest, torch.log(torch.tensor([-30.0, -31.0, -32.0]).exp().sum())[None])


def test_absent_entries_hide_no_token() -> None:
    """Their id is 0, which is a token like any other: its logit still counts."""
    logits = _logits(4, tokens=1)
    targets = Targets(
        torch.tensor([3]),
        torch.tensor([[3, 7, 0, 0]]),
        torch.tensor([[-0.5, -1.0, -math.inf, -math.inf]]),
        kd=torch.ones(1),
        ce=torch.ones(1),
    )
    bare = Targets(targets.ids, targets.top_ids[:, :2], targets.top_logprobs[:, :2], targets.kd, targets.ce)
    objective = _objective("jensen_shannon", "renormalise", 2.0)

    losses = [distillation_loss(logits, one, objective, kd_tokens=1, ce_tokens=1).total for one in (targets, bare)]
    gradient = torch.autograd.grad(losses[0], logits)[0]

    torch.testing.assert_close(*losses)
    assert gradient[0, 0] > 0


def test_a_token_too_improbable_for_float32_is_as_if_absent() -> None:
    logits = _logits(9, tokens=1)
    objective = _objective("forward_kl", "renormalise", 0.5)

    def loss(least: float) -> torch.Tensor:
        one = torch.ones(1)
        targets = Targets(torch.tensor([3]), torch.tensor([[3, 7]]), torch.tensor([[0.0, least]]), kd=one, ce=one)
        return distillation_loss(logits, targets, objective, kd_tokens=1, ce_tokens=1).total

    torch.testing.assert_close(loss(-3e38), loss(-math.inf))
    assert torch.isfinite(torch.autograd.grad(loss(-3e38), logits)[0]).all()


def test_draws_are_refused_at_another_temperature() -> None:
    targets = dense.random_targets(2, VOCABULARY, 3, seed=0)
    support = Support.of(targets.ids, targets.top_ids, targets.top_logprobs)
    reduced = reduce(_logits(0, tokens=2), support, (1.0, 2.0))
    with pytest.raises(ValueError, match="at a temperature of 1 alone"):
        sampled(targets.top_logprobs, reduced, support, 2.0)


def test_a_bucket_has_no_outcome_where_nothing_is_left() -> None:
    targets = dense.random_targets(2, VOCABULARY, VOCABULARY, seed=0)
    support = Support.of(targets.ids, targets.top_ids, targets.top_logprobs)

    teacher, student, rest = bucket(targets.top_logprobs, reduce(_logits(1, tokens=2), support, (1.0,)), support, 2.0)

    assert rest is None
    assert (teacher[:, -1].exp() == 0).all()
    assert (student[:, -1].exp() == 0).all()
