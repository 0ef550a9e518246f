"""What is made of vLLM's outputs, and what Ray sets aside for an engine; the engine itself runs in the end-to-end
tests."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from ray_jobs.engine import _completion, actor_resources
from stillhouse.recipe import Engine


def output(positions: list[list[tuple[int, float]]], token_ids: list[int]) -> Any:
    """As vLLM gives it: at each position the sampled token first, then the top k in rank order, laid flat."""
    flat = [entry for position in positions for entry in position]
    ends = [sum(map(len, positions[: i + 1])) for i in range(len(positions))]
    logprobs = SimpleNamespace(
        start_indices=[end - len(position) for end, position in zip(ends, positions, strict=True)],
        end_indices=ends,
        token_ids=[token for token, _ in flat],
        logprobs=[logprob for _, logprob in flat],
    )
    return SimpleNamespace(logprobs=logprobs, token_ids=token_ids, text=" positive", finish_reason="stop")


def test_the_sampled_token_is_not_counted_among_the_top() -> None:
    positions = [
        [(9, -4.0), (5, -0.25), (6, -2.0)],  # sampled outside the top two
        [(5, -0.5), (5, -0.5), (7, -1.5)],  # sampled the most probable one
    ]
    made = _completion([1, 2], output(positions, [9, 5]))
    assert made.token_logprobs == [-4.0, -0.5]
    assert made.signal is not None
    assert [made.signal.at(i)[0].tolist() for i in range(2)] == [[5, 6], [5, 7]]
    assert [made.signal.at(i)[1].tolist() for i in range(2)] == [[-0.25, -2.0], [-0.5, -1.5]]
    assert made.prompt_token_ids == [1, 2]


def test_tokens_that_the_contract_rules_out_are_dropped() -> None:
    positions = [[(5, 0.0), (5, 0.0), (6, -math.inf), (7, -math.inf)]]
    made = _completion([1], output(positions, [5]))
    assert made.signal is not None
    assert (made.signal.ids.tolist(), made.signal.logprobs.tolist()) == ([5], [0.0])


def test_missing_logprobs_stop_the_job() -> None:
    with pytest.raises(RuntimeError, match="logprobs for 1 of 2 tokens: nothing can be distilled"):
        _completion([1], output([[(5, 0.0), (5, 0.0)]], [5, 0]))


def test_cores_are_shared_out_between_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert actor_resources(Engine(), 2) == {"num_cpus": 4}
    assert actor_resources(Engine(), 100) == {"num_cpus": 1}
    assert actor_resources(Engine(cpus=3), 2) == {"num_cpus": 3}


def test_an_engine_takes_all_its_gpus() -> None:
    engine = Engine(device="cuda", tensor_parallel_size=4, pipeline_parallel_size=2, accelerator_type="H100")
    assert actor_resources(engine, 1) == {"num_gpus": 8, "accelerator_type": "H100"}
