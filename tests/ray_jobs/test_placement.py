"""Where engines run, against Ray's scheduler and vLLM's own configuration; the GPUs are logical ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data

from ray_jobs.placement import actor_options, bundles, executor, own_cpus, remote_options, spans_nodes
from stillhouse.engine_arguments import engine_arguments, engine_environment
from stillhouse.recipe import Engine, Engines, Recipe
from stillhouse.recipe_file import load_recipe

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "llama_70b"


@pytest.fixture(scope="module")
def one_node() -> Recipe:
    return load_recipe(EXAMPLES / "recipe.yaml")


@pytest.fixture(scope="module")
def two_nodes() -> Recipe:
    return load_recipe(EXAMPLES / "two_nodes.yaml")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of eight GPUs each, as Ray counts them, beside a head without any."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=16, num_gpus=8, resources={"accelerator_type:A10G": 1, "accelerator_type:H100": 1})
    ray.init(address=cluster.address, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def size(options: dict[str, Any]) -> tuple[int, int]:
    compute = options["compute"]
    assert isinstance(compute, ray.data.ActorPoolStrategy)
    return compute.min_size, compute.max_size


def test_cores_are_shared_out_between_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert actor_options(Engine(), Engines(max=2), 100)["num_cpus"] == 4
    assert actor_options(Engine(), Engines(max=2), 1)["num_cpus"] == 8, "no more engines than parts"
    assert actor_options(Engine(), Engines(max=100), 100)["num_cpus"] == 1
    assert actor_options(Engine(cpus=3), Engines(max=2), 100)["num_cpus"] == 3
    assert remote_options(Engine()) == {"num_cpus": 8}


def test_as_many_engines_as_there_is_work_for() -> None:
    assert size(actor_options(Engine(), Engines(min=2, max=4), 100)) == (2, 4)
    assert size(actor_options(Engine(), Engines(min=2, max=4), 3)) == (2, 3)
    assert size(actor_options(Engine(), Engines(min=2, max=4), 1)) == (1, 1)
    assert size(actor_options(Engine(), Engines(), 0)) == (1, 1)


def test_an_engine_keeps_to_the_cores_that_its_actor_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert own_cpus(Engine()) is None
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert own_cpus(Engine()) == 4
    assert engine_environment(Engine(), 4)["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert own_cpus(Engine()) is None


def test_an_engine_of_one_node_takes_all_its_gpus(one_node: Recipe) -> None:
    engine = one_node.teacher.engine
    assert not spans_nodes(engine)
    assert remote_options(engine) == {"num_gpus": 8, "accelerator_type": "H100"}
    options = actor_options(engine, one_node.capture.engines, 10)
    assert size(options) == (1, 2)
    assert {name: options[name] for name in ("num_gpus", "accelerator_type")} == remote_options(engine)
    assert (executor(engine), executor(Engine())) == ("mp", "uni")


def test_the_engine_arguments_are_vllms_own(one_node: Recipe, two_nodes: Recipe, tmp_path: Path) -> None:
    from transformers import LlamaConfig
    from vllm.config import ParallelConfig
    from vllm.engine.arg_utils import EngineArgs

    # The shape of Llama 3.3 70B.
    config = LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=131072,
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(tmp_path)
    for recipe, backend, world in ((one_node, "mp", 8), (two_nodes, "ray", 16)):
        engine = recipe.teacher.engine
        arguments = engine_arguments(engine, recipe.task)
        made = EngineArgs(model=str(tmp_path), distributed_executor_backend=backend, **arguments)
        parallel = ParallelConfig(
            tensor_parallel_size=made.tensor_parallel_size,
            pipeline_parallel_size=made.pipeline_parallel_size,
            distributed_executor_backend=backend,
        )
        assert (parallel.world_size, parallel.use_ray) == (world, backend == "ray")
        model = made.create_model_config()
        # It would refuse heads that the GPUs cannot share, or layers that the stages cannot.
        model.verify_with_parallel_config(parallel)
        assert model.get_num_attention_heads(parallel) == 64 // 8
        assert model.get_num_layers(parallel) == 80 // engine.pipeline_parallel_size
        assert (model.max_model_len, str(model.dtype)) == (engine.max_model_len, "torch.bfloat16")
        assert made.enforce_eager is False
        assert made.enable_prefix_caching is False


def test_quantization_is_passed_on(one_node: Recipe) -> None:
    engine = one_node.teacher.engine.model_copy(update={"quantization": "fp8"})
    assert engine_arguments(engine, one_node.task)["quantization"] == "fp8"
    assert "quantization" not in engine_arguments(one_node.teacher.engine, one_node.task)


@pytest.mark.slow
def test_a_pipeline_gets_eight_gpus_on_each_of_two_nodes(cluster: Any, two_nodes: Recipe) -> None:
    engine = two_nodes.teacher.engine
    assert spans_nodes(engine)
    assert len(bundles(engine)) == 16
    options = actor_options(engine, two_nodes.capture.engines, 10)
    assert options["num_gpus"] == 0
    strategy = options["ray_remote_args_fn"]()["scheduling_strategy"]
    assert strategy.placement_group_capture_child_tasks
    group = strategy.placement_group
    ray.get(group.ready(), timeout=60)
    places = ray.util.placement_group_table(group)["bundles_to_node_id"]
    assert sorted(Counter(places.values()).values()) == [8, 8]

    @ray.remote
    class Holder:
        def executor(self) -> str:
            return executor(engine)

        def ranks(self) -> list[str]:
            """The node of each of vLLM's ranks, once vLLM has accepted the group for its world."""
            from vllm.config import ParallelConfig
            from vllm.platforms import current_platform
            from vllm.v1.executor.ray_utils import get_bundles_sorted_by_node, initialize_ray_cluster

            # As on the GPUs that the recipe is for.
            current_platform.ray_device_key = "GPU"
            parallel = ParallelConfig(
                tensor_parallel_size=engine.tensor_parallel_size,
                pipeline_parallel_size=engine.pipeline_parallel_size,
                distributed_executor_backend="ray",
            )
            initialize_ray_cluster(parallel, require_gpu_on_driver=False)
            return [node for _, node, _ in get_bundles_sorted_by_node(parallel.placement_group)]

    holder = Holder.options(scheduling_strategy=strategy, num_cpus=1).remote()  # type: ignore[attr-defined]
    assert ray.get(holder.executor.remote()) == "ray"
    ranks = ray.get(holder.ranks.remote())
    assert len(ranks) == 16
    assert len(set(ranks[:8])) == len(set(ranks[8:])) == 1, "a stage of the pipeline is one node"
    ray.kill(holder)
    ray.util.remove_placement_group(group)


@pytest.mark.slow
def test_an_engine_larger_than_any_node_is_spread(cluster: Any, one_node: Recipe) -> None:
    engine = one_node.teacher.engine
    assert not spans_nodes(engine)
    assert spans_nodes(engine.model_copy(update={"tensor_parallel_size": 16}))
