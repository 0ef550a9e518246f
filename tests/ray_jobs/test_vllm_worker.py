"""The draws, and what is said where vLLM has no place for them; the hook itself is tested with the real engine."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from ray_jobs.engine import BatchEngine
from ray_jobs.vllm_worker import CaptureWorkerExtension, draw, uniforms
from stillhouse.errors import UserError
from stillhouse.recipe import Capture


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([[0.5, 0.0, 0.3, 0.2], [0.01, 0.99, 0.0, 0.0]])
    drawn = draw(probabilities.log(), torch.from_numpy(uniforms([(1, 0), (1, 1)], 20_000)))
    assert drawn.shape == (2, 20_000)
    for row, expected in zip(drawn, probabilities, strict=True):
        counts = np.bincount(row.numpy(), minlength=4)
        possible = expected.numpy() > 0
        assert not counts[~possible].any(), "what is impossible is never drawn"
        assert chisquare(counts[possible], expected.numpy()[possible] * 20_000).pvalue > 1e-4


def test_the_ends_of_the_distribution_are_drawn_right() -> None:
    logprobs = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    ends = torch.tensor([[0.0, 1 - 2**-53]], dtype=torch.float64)
    assert draw(logprobs, ends).tolist() == [[1, 1]]


def test_a_large_vocabulary_keeps_its_tail() -> None:
    logprobs = torch.full((1, 150_000), -np.log(150_000))
    drawn = draw(logprobs, torch.from_numpy(uniforms([(5, 3)], 100_000)))[0].numpy()
    assert chisquare(np.bincount(drawn // 1_500, minlength=100)).pvalue > 1e-4


def test_uniforms_depend_on_their_key_alone() -> None:
    together = uniforms([(1, 0), (2, 0), (1, 1)], 50)
    assert np.array_equal(together[1], uniforms([(2, 0)], 50)[0])
    assert len(np.unique(together)) == 150


@pytest.mark.parametrize(
    ("runner", "missing"),
    [
        (SimpleNamespace(), "model_runner.input_batch"),
        (
            SimpleNamespace(sampler=SimpleNamespace(sample=lambda logits, expanded_idx_mapping: None)),
            "model_runner.sampler.sample(logits, sampling_metadata)",
        ),
    ],
)
def test_a_worker_without_the_hook_is_left_alone(runner: SimpleNamespace, missing: str) -> None:
    worker = CaptureWorkerExtension()
    worker.model_runner = runner
    before = dict(vars(runner))
    assert missing in worker.install_capture(50)
    assert vars(runner) == before


@pytest.mark.parametrize(
    ("capture", "told"),
    [
        (Capture(mode="sampled"), "`capture.mode: sampled` needs: use `capture.mode: topk`"),
        (Capture(mode="topk"), "scoring completions needs: use `capture.completions: teacher`"),
    ],
)
def test_the_job_says_what_is_missing_and_what_works(capture: Capture, told: str) -> None:
    def collective_rpc(method: str, args: tuple[int | None]) -> list[list[str]]:
        assert (method, args) == ("install_capture", (50 if capture.mode == "sampled" else None,))
        return [[], ["model_runner.sampler"]]

    engine: Any = BatchEngine.__new__(BatchEngine)
    engine._capture, engine.version, engine.llm = capture, "1.2", SimpleNamespace(collective_rpc=collective_rpc)
    with pytest.raises(UserError, match=re.escape(f"vLLM 1.2 has no model_runner.sampler in its worker, which {told}")):
        engine._install()
