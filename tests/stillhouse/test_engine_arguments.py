"""What vLLM is told, in batches and served alike; vLLM's own classes take it in `tests/ray_jobs/test_placement.py`."""

from __future__ import annotations

import pytest

from stillhouse.engine_arguments import engine_arguments, engine_environment
from stillhouse.recipe import Engine, Task

TEXT = Task(kind="text", prompt="{text}")
CHOICES = Task(kind="choices", prompt="{text}", choices=("a", "b"))


def test_a_cpu_has_no_parallel_sizes_and_its_memory_in_bytes() -> None:
    made = engine_arguments(Engine(kv_cache_gb=0.5), TEXT)
    assert made["kv_cache_memory_bytes"] == 2**29
    assert made["enforce_eager"]
    assert not {"tensor_parallel_size", "gpu_memory_utilization", "quantization"} & set(made)


def test_a_gpu_is_told_its_share() -> None:
    engine = Engine(device="cuda", tensor_parallel_size=4, quantization="fp8", gpu_memory_utilization=0.8)
    made = engine_arguments(engine, TEXT)
    assert (made["tensor_parallel_size"], made["pipeline_parallel_size"]) == (4, 1)
    assert (made["quantization"], made["gpu_memory_utilization"]) == ("fp8", 0.8)
    assert not {"enforce_eager", "kv_cache_memory_bytes"} & set(made)


@pytest.mark.parametrize(("task", "mode"), [(TEXT, "raw_logprobs"), (CHOICES, "processed_logprobs")])
def test_logprobs_are_those_that_the_task_is_distilled_from(task: Task, mode: str) -> None:
    made = engine_arguments(Engine(), task)
    assert made["logprobs_mode"] == mode
    assert made["enable_prefix_caching"] is False, "a reused prefix has no logprobs"


def test_an_engine_alone_takes_every_core_and_one_of_many_keeps_to_its_own() -> None:
    assert engine_environment(Engine(), None)["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"
    shared = engine_environment(Engine(), 3)
    assert (shared["VLLM_CPU_OMP_THREADS_BIND"], shared["OMP_NUM_THREADS"]) == ("nobind", "3")
    assert "OMP_NUM_THREADS" not in engine_environment(Engine(device="cuda"), 3)
