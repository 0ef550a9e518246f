"""The advice to a training that does not fit into memory: it is accepted, it fits, and it begins with the least."""

from __future__ import annotations

import re

import pytest
from test_memory import GIB, large

from ray_jobs.train.memory import Memory, estimate, require_fits
from ray_jobs.train.remedies import remedies
from ray_jobs.train.shape import ModelShape
from stillhouse.errors import UserError
from stillhouse.recipe import Lora, Student

__all__ = ["large"]


def test_the_advice_fits_and_begins_with_the_most_harmless(large: ModelShape) -> None:
    student = Student(workers=2, micro_batch_size=16, device="cuda", zero_stage=3)
    smaller = estimate(large, student.model_copy(update={"micro_batch_size": 8}), workers=2, k=20)
    available = Memory(device=smaller.device, host=64 * GIB)
    with pytest.raises(
        UserError, match=r"a worker needs about \d+\.\d GiB \(weights .* and has .* GiB: it fits"
    ) as said:
        require_fits(large, student, available, workers=2, k=20)
    named = re.findall(r"`([^`]+)`", str(said.value))
    assert named[0] == "micro_batch_size: 8"
    assert len(set(named)) == len(named)
    fitting = {
        words: estimate(large, changed, workers=2, k=20).device <= available.device
        for words, changed in remedies(student, 2)
    }
    for words in str(said.value).partition("fits with ")[2].split("; or "):
        assert fitting[words.rpartition(" (")[0]]


def test_settings_that_only_fit_together_are_named_together(large: ModelShape) -> None:
    student = Student(workers=2, micro_batch_size=16, device="cuda", zero_stage=0)
    with pytest.raises(UserError, match=r"fits with `micro_batch_size: 1`, `gradient_checkpointing: true`, `zero_s"):
        require_fits(large, student, Memory(device=40 * GIB, host=500 * GIB), workers=2, k=20)


def test_offloading_is_no_advice_to_a_machine_without_the_memory_for_it(large: ModelShape) -> None:
    student = Student(workers=2, micro_batch_size=1, device="cuda", zero_stage=3, gradient_checkpointing=True)
    available = Memory(device=24 * GIB, host=500 * GIB)
    with pytest.raises(UserError, match="offload"):
        require_fits(large, student, available, workers=2, k=20)
    with pytest.raises(UserError) as said:
        require_fits(large, student, Memory(device=24 * GIB, host=GIB // 10 * 9), workers=2, k=20)
    assert "offload" not in str(said.value)


def test_settings_add_up_without_undoing_each_other() -> None:
    student = Student(workers=2, device="cuda", zero_stage=0, micro_batch_size=2)
    words, changed = list(remedies(student, 2))[-1]
    assert words == (
        "`micro_batch_size: 1`, `gradient_checkpointing: true`, `zero_stage: 3`, `offload: {optimizer: true}`,"
        " `lora: {}`"
    )
    assert (changed.micro_batch_size, changed.zero_stage, changed.offload.optimizer) == (1, 3, True)
    alone = [words for words, _ in remedies(Student(workers=1, device="cuda", zero_stage=0), 1)]
    assert "`zero_stage: 1`, `offload: {optimizer: true}`" in alone


def test_what_never_fits_is_said_so(large: ModelShape) -> None:
    student = Student(workers=1, batch_size=8, lora=Lora(), zero_stage=0)
    with pytest.raises(UserError, match=r"and has 1\.0 GiB: a smaller `student`, more workers or a shorter"):
        require_fits(large, student, Memory(device=GIB, host=GIB), workers=1, k=20)


def test_every_remedy_is_a_recipe_that_is_accepted() -> None:
    for settings in ({}, {"device": "cuda", "zero_stage": 0}, {"fused_head": False}, {"init": {"kind": "fresh"}}):
        if settings.get("init"):
            settings = {"init": {"kind": "fresh", "config": {"num_hidden_layers": 2}}}
        for words, changed in remedies(Student(workers=2, **settings), 2):
            assert Student.model_validate(changed.model_dump()) == changed, words
