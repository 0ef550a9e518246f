"""Every divergence against its definition over probabilities, and against other libraries'."""

from __future__ import annotations

import math

import dense_losses as dense
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.losses.adaptive_kl import adaptive_kl
from stillhouse.losses.divergences import divergence
from stillhouse.losses.forward_kl import forward_kl
from stillhouse.losses.jensen_shannon import jensen_shannon
from stillhouse.losses.outcomes import ABSENT
from stillhouse.losses.reverse_kl import reverse_kl
from stillhouse.losses.skew_kl import skew_kl, skew_reverse_kl
from stillhouse.losses.total_variation import total_variation

BETA, SKEW = 0.3, 0.2


def _logprobs(tokens: int, outcomes: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(torch.randn(tokens, outcomes, generator=generator, dtype=torch.float64) * scale, -1)


@pytest.mark.parametrize("kind", dense.KINDS)
@given(seed=st.integers(0, 2**31 - 1), outcomes=st.integers(2, 40), scale=st.floats(0.1, 30))
@settings(max_examples=30, deadline=None)
def test_value_and_gradients_are_those_of_the_definition(kind: str, seed: int, outcomes: int, scale: float) -> None:
    teacher = _logprobs(3, outcomes, seed, scale)
    # Of logits: a difference from a certain outcome's probability, lost in rounding, is lost in the softmax as well.
    ours, theirs = (_logprobs(3, outcomes, seed + 1, scale).requires_grad_() for _ in range(2))

    found = divergence(kind, beta=BETA, skew=SKEW)(teacher, torch.log_softmax(ours, -1), None)
    expected = dense.divergence(kind, teacher.exp(), torch.softmax(theirs, -1), beta=BETA, skew=SKEW)

    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), ours)[0],
        torch.autograd.grad(expected.sum(), theirs)[0],
        rtol=1e-7,
        atol=1e-12,
    )


@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_scipy(seed: int) -> None:
    p, q = _logprobs(4, 20, seed).exp().numpy(), _logprobs(4, 20, seed + 10).exp().numpy()
    teacher, student = torch.from_numpy(np.log(p)), torch.from_numpy(np.log(q))

    def kl(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return scipy.special.rel_entr(a, b).sum(-1)

    m = BETA * p + (1 - BETA) * q
    for found, expected in (
        (forward_kl(teacher, student), kl(p, q)),
        (reverse_kl(teacher, student), kl(q, p)),
        (jensen_shannon(teacher, student, beta=BETA), BETA * kl(p, m) + (1 - BETA) * kl(q, m)),
        (skew_kl(teacher, student, skew=SKEW), kl(p, SKEW * p + (1 - SKEW) * q)),
        (skew_reverse_kl(teacher, student, skew=SKEW), kl(q, (1 - SKEW) * p + SKEW * q)),
        (total_variation(teacher, student), np.abs(p - q).sum(-1) / 2),
    ):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jensen_shannon_is_that_of_trl_s_gkd(beta: float) -> None:
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    start = torch.randn(1, 5, 30, generator=torch.Generator().manual_seed(0))
    teacher = torch.randn(1, 5, 30, generator=torch.Generator().manual_seed(1))
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()

    found = jensen_shannon(torch.log_softmax(teacher[0] / 2, -1), torch.log_softmax(ours[0] / 2, -1), beta=beta).sum()
    expected = GKDTrainer.generalized_jsd_loss(theirs, teacher, beta=beta, temperature=2.0, reduction="sum")
    found.backward()
    expected.backward()

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_jensen_shannon_tends_to_either_kl() -> None:
    teacher, student = _logprobs(4, 10, 0), _logprobs(4, 10, 1)

    small, large = (jensen_shannon(teacher, student, beta=beta) for beta in (1e-6, 1 - 1e-6))

    torch.testing.assert_close(small / 1e-6, forward_kl(teacher, student), rtol=1e-4, atol=0)
    torch.testing.assert_close(large / 1e-6, reverse_kl(teacher, student), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", ["forward_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl", "total_variation"])
@pytest.mark.parametrize("zero", [-math.inf, ABSENT])
def test_a_rest_is_what_its_outcomes_would_be(kind: str, zero: float) -> None:
    """The student's mass on outcomes without the teacher's, as one number or outcome by outcome; all of it finite."""
    function = divergence(kind, beta=BETA, skew=SKEW)
    teacher = torch.cat([_logprobs(3, 4, 0), torch.full((3, 6), zero, dtype=torch.float64)], -1)
    logits = torch.randn(3, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one, all_of_them = logits.clone().requires_grad_(), logits.clone().requires_grad_()

    student = torch.log_softmax(one, -1)
    found = function(teacher[:, :4], student[:, :4], torch.logsumexp(student[:, 4:], -1))
    expected = function(teacher, torch.log_softmax(all_of_them, -1), None)
    found.sum().backward()
    expected.sum().backward()

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(one.grad, all_of_them.grad)
    assert torch.isfinite(one.grad).all()


@pytest.mark.parametrize("kind", dense.KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_an_equal_student_has_no_divergence_and_no_gradient(kind: str, dtype: torch.dtype, scale: float) -> None:
    logits = (torch.randn(5, 50, generator=torch.Generator().manual_seed(1)) * scale).to(dtype).requires_grad_()
    teacher = torch.log_softmax(logits.detach().double(), -1).to(dtype)

    found = divergence(kind)(teacher, torch.log_softmax(logits, -1), None)
    found.sum().backward()

    assert found.abs().max() < 1e-5
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-5


@pytest.mark.parametrize("kind", dense.KINDS)
def test_outcomes_that_neither_side_has_change_nothing(kind: str) -> None:
    function = divergence(kind, beta=BETA, skew=SKEW)
    teacher, student = _logprobs(3, 6, 0), _logprobs(3, 6, 1)
    wide = student.clone().requires_grad_()
    nothing = torch.full((3, 2), ABSENT, dtype=torch.float64)

    found = function(torch.cat([teacher, nothing], -1), torch.cat([wide, nothing], -1), None)
    found.sum().backward()

    torch.testing.assert_close(found, function(teacher, student, None))
    assert wide.grad is not None
    assert torch.isfinite(wide.grad).all()


def test_what_is_infinite_is_refused() -> None:
    teacher, student, rest = _logprobs(2, 3, 0), _logprobs(2, 3, 1), torch.zeros(2)
    for function in (reverse_kl, adaptive_kl):
        with pytest.raises(ValueError, match="infinite"):
            function(teacher, student, rest)
