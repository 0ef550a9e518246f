"""What a batch may hold, and what its tokens add up to."""

from __future__ import annotations

import math

import dense_losses as dense
import pytest
import torch
from torch.nn import functional

from stillhouse.losses.forward_kl import forward_kl
from stillhouse.losses.mix import Objective, Targets, distillation_loss
from stillhouse.recipe import Student

VOCABULARY = 50
OBJECTIVE = Objective(kd_weight=0.7, ce_weight=0.3, temperature=2.0)


def _targets(tokens: int, seed: int = 0) -> Targets:
    return dense.random_targets(tokens, VOCABULARY, 5, seed=seed)


def _logits(tokens: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(tokens, VOCABULARY, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def _counting(targets: Targets, *, kd: torch.Tensor, ce: torch.Tensor) -> Targets:
    return Targets(**{**vars(targets), "kd": kd, "ce": ce})


def test_the_mix_weighs_its_parts() -> None:
    """Against torch's own, where the stored tokens are all there are."""
    targets, logits = dense.random_targets(4, VOCABULARY, VOCABULARY, seed=7), _logits(4)

    losses = distillation_loss(logits, targets, OBJECTIVE, kd_tokens=4, ce_tokens=2)

    order = targets.top_ids.argsort(-1)
    teacher = torch.log_softmax(targets.top_logprobs.gather(-1, order) / 2, -1)
    kd = 4 * functional.kl_div(torch.log_softmax(logits / 2, -1), teacher, log_target=True, reduction="sum") / 4
    ce = functional.cross_entropy(logits, targets.ids, reduction="sum") / 2
    torch.testing.assert_close(losses.kd, kd)
    torch.testing.assert_close(losses.ce, ce)
    torch.testing.assert_close(losses.total, 0.7 * kd + 0.3 * ce)


def test_bfloat16_is_widened_before_the_softmax() -> None:
    logits, targets = _logits(3).detach().bfloat16(), _targets(3)

    losses = distillation_loss(logits, targets, OBJECTIVE, kd_tokens=3, ce_tokens=3)

    assert losses.total.dtype == torch.float32
    torch.testing.assert_close(losses.ce, functional.cross_entropy(logits.float(), targets.ids))


def test_uneven_micro_batches_add_up_to_the_whole() -> None:
    targets = dense.ragged(_targets(12))
    whole = _logits(12)
    parts = whole.detach().clone().requires_grad_()
    counts = {"kd_tokens": float(targets.kd.sum()), "ce_tokens": float(targets.ce.sum())}

    total = distillation_loss(whole, targets, OBJECTIVE, **counts).total
    total.backward()
    added = torch.stack(
        [
            distillation_loss(parts[chosen], targets[chosen], OBJECTIVE, **counts).total
            for chosen in (slice(0, 7), slice(7, 8), slice(8, 8), slice(8, 12))
        ]
    ).sum()
    added.backward()

    torch.testing.assert_close(added, total)
    torch.testing.assert_close(parts.grad, whole.grad)


@pytest.mark.parametrize("garbage", [3e38, math.inf, math.nan])
def test_tokens_that_do_not_count_add_exactly_zero_whatever_they_hold(garbage: float) -> None:
    targets = _counting(_targets(4), kd=torch.tensor([1.0, 0, 0, 0]), ce=torch.tensor([1.0, 0, 0, 0]))
    alone = _logits(4).detach()
    logits = alone.clone()
    logits[1:] = garbage
    logits.requires_grad_()

    losses = distillation_loss(logits, targets, OBJECTIVE, kd_tokens=8, ce_tokens=8)
    losses.total.backward()

    expected = distillation_loss(alone[:1], targets[:1], OBJECTIVE, kd_tokens=8, ce_tokens=8)
    assert losses.total == expected.total
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad[1:]) == 0
    nothing = _counting(targets, kd=torch.zeros(4), ce=torch.zeros(4))
    assert distillation_loss(logits, nothing, OBJECTIVE, kd_tokens=8, ce_tokens=8).total == 0


def test_a_token_without_the_teacher_s_word_has_cross_entropy_alone() -> None:
    targets, logits = _targets(2), _logits(2)
    targets.top_logprobs[1] = -math.inf

    losses = distillation_loss(logits, targets, OBJECTIVE, kd_tokens=1, ce_tokens=1)

    first = distillation_loss(logits[:1], targets[:1], OBJECTIVE, kd_tokens=1, ce_tokens=1)
    assert losses.kd == first.kd
    torch.testing.assert_close(losses.ce, functional.cross_entropy(logits, targets.ids, reduction="sum"))


def test_a_target_outside_of_the_stored_tokens_is_one_of_the_others_to_the_divergence() -> None:
    targets, logits = _targets(3), _logits(3)
    outside = torch.tensor([next(i for i in range(VOCABULARY) if i not in row) for row in targets.top_ids.tolist()])
    moved = Targets(**{**vars(targets), "ids": outside})

    for kind, tail in (("jensen_shannon", "renormalise"), ("reverse_kl", "bucket")):
        objective = Objective(0.7, 0.3, 2.0, divergence=kind, tail=tail)  # type: ignore[arg-type]
        inside, without = (
            distillation_loss(logits, one, objective, kd_tokens=1, ce_tokens=1) for one in (targets, moved)
        )
        torch.testing.assert_close(inside.kd, without.kd)
        torch.testing.assert_close(without.ce, functional.cross_entropy(logits, outside, reduction="sum"))


@pytest.mark.parametrize(("kd_tokens", "ce_tokens"), [(0, 3), (3, 0)])
def test_a_part_without_tokens_is_exactly_zero(kd_tokens: int, ce_tokens: int) -> None:
    targets, logits = _targets(3), _logits(3)

    losses = distillation_loss(logits, targets, OBJECTIVE, kd_tokens=kd_tokens, ce_tokens=ce_tokens)

    both = distillation_loss(logits, targets, OBJECTIVE, kd_tokens=3, ce_tokens=3)
    assert losses.kd == (both.kd if kd_tokens else 0)
    assert losses.ce == (both.ce if ce_tokens else 0)
    torch.testing.assert_close(losses.total, 0.7 * losses.kd + 0.3 * losses.ce)


def test_without_any_signal_there_is_cross_entropy() -> None:
    targets, logits = dense.random_targets(3, VOCABULARY, 0, seed=0), _logits(3)

    for objective in (OBJECTIVE, Objective(kd_weight=0, ce_weight=0.3)):
        losses = distillation_loss(logits, targets, objective, kd_tokens=3, ce_tokens=3)
        assert losses.kd == 0
        torch.testing.assert_close(losses.total, 0.3 * functional.cross_entropy(logits, targets.ids))


def test_a_step_without_a_token_is_refused() -> None:
    for counts in ({"kd_tokens": 0, "ce_tokens": 0}, {"kd_tokens": -1, "ce_tokens": 1}):
        with pytest.raises(ValueError, match="single token"):
            distillation_loss(_logits(1), _targets(1), OBJECTIVE, **counts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"divergence": "reverse_kl"}, "take the tail `bucket`"),
        ({"divergence": "adaptive_kl"}, "take the tail `bucket`"),
        ({"divergence": "reverse_kl", "tail": "sampled"}, "forward_kl at a temperature of 1 alone"),
        ({"temperature": 2.0, "tail": "sampled"}, "forward_kl at a temperature of 1 alone"),
    ],
)
def test_what_is_not_defined_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(kd_weight=1.0, ce_weight=0.0, **changes)  # type: ignore[arg-type]
    Objective(kd_weight=0.0, ce_weight=1.0, **changes)  # type: ignore[arg-type]


def test_a_recipe_s_objective() -> None:
    student = Student.model_validate(
        {"temperature": 1, "kd_weight": 0.4, "divergence": {"kind": "jensen_shannon", "beta": 0.2}}
    )

    assert Objective.of(student, "topk") == Objective(0.4, 0.3, 1.0, "jensen_shannon", beta=0.2, tail="renormalise")
    assert Objective.of(Student(temperature=1.0), "sampled").tail == "sampled"
    assert Objective.of(Student.model_validate({"divergence": {"tail": "bucket"}}), "topk").tail == "bucket"


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_divergence_s_gradients_are_of_one_size_at_any_temperature(temperature: float) -> None:
    """T² is there once: for small differences T² · KL at T tends to the KL of centred logits, whatever T is."""
    base = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-3
    teacher = torch.log_softmax(base * 2, -1)
    order = torch.arange(VOCABULARY)[None]
    ones = torch.ones(1)
    targets = Targets(order[:, 0], order, teacher, kd=ones, ce=ones)

    objective = Objective(kd_weight=1.0, ce_weight=0.0, temperature=temperature)
    kd = distillation_loss(base, targets, objective, kd_tokens=1, ce_tokens=0).kd

    torch.testing.assert_close(kd, forward_kl(teacher, torch.log_softmax(base, -1)).sum(), rtol=1e-2, atol=0)
