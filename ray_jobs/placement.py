"""Where engines run: what Ray sets aside for the actors that hold them."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Literal

import ray
import ray.data
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from stillhouse.recipe import Engine, Engines


def pool(engines: Engines, parts: int, *, calls: int) -> ray.data.ActorPoolStrategy:
    """Actors for so many parts, each called from up to `calls` threads at once."""
    most = max(1, min(engines.max, parts))
    return ray.data.ActorPoolStrategy(
        min_size=min(engines.min, most),
        max_size=most,
        max_concurrent_calls_per_actor=calls,
        enable_true_multi_threading=True,
    )


def actor_options(engine: Engine, engines: Engines, parts: int) -> dict[str, Any]:
    """What Ray Data's `map_batches` needs for actors that each hold one engine.

    Args:
        engines: how many side by side; no more than there are parts.
    """
    most = max(1, min(engines.max, parts))
    # Two calls: the results of one part are written while the engine answers the next.
    compute = pool(engines, parts, calls=2)
    if spans_nodes(engine):
        # Each actor a group of its own; the function is called whenever one starts.
        return {"compute": compute, "num_gpus": 0, "ray_remote_args_fn": partial(_in_a_group, engine)}
    return {"compute": compute, **_resources(engine, most)}


def remote_options(engine: Engine) -> dict[str, Any]:
    """The options of a single remote actor that holds an engine."""
    return {"num_gpus": 0, **_in_a_group(engine)} if spans_nodes(engine) else _resources(engine, 1)


def spans_nodes(engine: Engine) -> bool:
    """Whether an engine's GPUs are taken from several nodes: as a pipeline, or where no node has enough of them."""
    if engine.device == "cpu":
        return False
    return engine.pipeline_parallel_size > 1 or 0 < _largest_node() < engine.tensor_parallel_size


def bundles(engine: Engine) -> list[dict[str, float]]:
    """The placement group of an engine that spans nodes: a bundle a GPU, as vLLM's Ray executor demands."""
    typed = {f"accelerator_type:{engine.accelerator_type}": 0.001} if engine.accelerator_type else {}
    return [{"GPU": 1, "CPU": 1, **typed} for _ in range(engine.tensor_parallel_size * engine.pipeline_parallel_size)]


def executor(engine: Engine) -> Literal["uni", "mp", "ray"]:
    """How vLLM runs its workers, asked in the actor that holds the engine."""
    if ray.is_initialized() and get_current_placement_group() is not None and spans_nodes(engine):
        return "ray"
    return "uni" if engine.tensor_parallel_size * engine.pipeline_parallel_size == 1 else "mp"


def own_cpus(engine: Engine) -> int | None:
    """The cores that an engine on a CPU has to itself, asked in the actor that holds it; None for the machine's all."""
    # Ray tells an actor's share by this variable.
    granted = engine.cpus or int(os.environ.get("OMP_NUM_THREADS", 0))
    return granted if 0 < granted < (os.cpu_count() or 1) else None


def _in_a_group(engine: Engine) -> dict[str, Any]:
    # As few nodes as possible; vLLM gives neighbouring ranks, which share layers, to the GPUs of one node.
    group = ray.util.placement_group(bundles(engine), strategy="PACK")
    return {
        "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True),
    }


def _resources(engine: Engine, actors: int) -> dict[str, Any]:
    if engine.device == "cpu":
        return {"num_cpus": engine.cpus or max(1, (os.cpu_count() or 1) // actors)}
    return {
        "num_gpus": engine.tensor_parallel_size * engine.pipeline_parallel_size,
        **({"accelerator_type": engine.accelerator_type} if engine.accelerator_type else {}),
    }


def _largest_node() -> int:
    """GPUs of the largest node; 0 before there is one."""
    if not ray.is_initialized():
        return 0
    return max((int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
