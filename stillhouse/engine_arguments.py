"""What vLLM is told about an engine, in batches and served alike; plain data, made without vLLM."""

from __future__ import annotations

from typing import Any

from stillhouse.recipe import Engine, Task
from stillhouse.task import logprobs_mode


def engine_arguments(engine: Engine, task: Task) -> dict[str, Any]:
    """vLLM's engine arguments, save for the model, the executor, and what only one of the two kinds of engine sets."""
    shared = {
        "dtype": engine.dtype,
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "logprobs_mode": logprobs_mode(task),
        # Reused prefixes are not scored, so their logprobs would be lost; and what is served is what was evaluated.
        "enable_prefix_caching": False,
        "seed": 0,
        **({"quantization": engine.quantization} if engine.quantization else {}),
    }
    if engine.device == "cpu":
        # In bytes, where VLLM_CPU_KVCACHE_SPACE takes whole GiB only.
        return {**shared, "enforce_eager": True, "kv_cache_memory_bytes": int(engine.kv_cache_gb * 2**30)}
    return {
        **shared,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "pipeline_parallel_size": engine.pipeline_parallel_size,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
    }


def engine_environment(engine: Engine, cpus: int | None) -> dict[str, str]:
    """The environment variables of the process that vLLM runs in.

    Args:
        cpus: on a CPU, the cores that the engine has to itself; None for all of the machine's.
    """
    quiet = {"VLLM_NO_USAGE_STATS": "1"}
    if engine.device != "cpu":
        return quiet
    if cpus is None:
        # vLLM would leave one core idle, which is half of a small laptop.
        return {**quiet, "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
    # Bound to cores, two engines would share the first ones and leave the others idle.
    return {**quiet, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(cpus)}
