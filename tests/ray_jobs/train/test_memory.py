"""The estimate of a training's memory: counted right, held against real trainings, and its advice is good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import training_process
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from ray_jobs.train import memory
from ray_jobs.train.lora import add_adapters
from ray_jobs.train.memory import Memory, adapter_parameters, available_memory, estimate, require_fits
from ray_jobs.train.shape import ModelShape, model_shape
from stillhouse.errors import UserError
from stillhouse.recipe import Lora, Recipe, Student

GIB = 2**30


def _config(**changes: Any) -> LlamaConfig:
    sizes = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }
    return LlamaConfig(**{**sizes, **changes})


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return model_shape(_config(), length=32)


@pytest.fixture(scope="module")
def large() -> ModelShape:
    """About 8 billion parameters, of which no weight is ever made."""
    return model_shape(
        _config(
            vocab_size=128_256,
            hidden_size=4096,
            intermediate_size=14_336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            tie_word_embeddings=False,
        ),
        length=1024,
    )


@pytest.mark.parametrize("tied", [True, False])
def test_the_shape_is_the_models(tied: bool) -> None:
    config = _config(tie_word_embeddings=tied)
    shape = model_shape(config, length=32)
    model = AutoModelForCausalLM.from_config(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.largest == 512 * 64
    assert (shape.vocabulary, shape.hidden, shape.depth) == (512, 64, 4)
    assert len(shape.linear) == 4 * 7
    for lora in (Lora(rank=4), Lora(rank=2, targets=("q_proj", "mlp.down_proj"))):
        adapted = add_adapters(AutoModelForCausalLM.from_config(config), lora, seed=0, say=lambda _: None)
        assert adapter_parameters(shape, lora) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_an_embedding_that_will_grow_is_counted_grown() -> None:
    assert model_shape(_config(), length=8, vocabulary=600).vocabulary == 600
    assert model_shape(_config(), length=8, vocabulary=500).vocabulary == 512


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "config",
    [
        _config(),
        Gemma2Config(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
        ),
    ],
    ids=["llama", "gemma2"],
)
def test_kept_activations_are_those_that_autograd_keeps(config: Any, dtype: torch.dtype) -> None:
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.randint(0, 512, (1, 32))
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    real = sum(size for size, _ in kept.values())
    counted = model_shape(config, length=32).kept[dtype]
    assert counted.layers + counted.rest == pytest.approx(real, rel=0.01)


def _of(shape: ModelShape, *, workers: int = 2, **student: Any) -> memory.Estimate:
    return estimate(shape, Student(**{"workers": workers, **student}), workers=workers, k=20)


def test_state_is_what_the_zero_paper_says(large: ModelShape) -> None:
    # Table 1 of https://arxiv.org/abs/1910.02054, with float32 gradients in stages 2 and 3 as DeepSpeed keeps them.
    size, gathered = large.parameters, 2 * 10**9
    settings: dict[str, Any] = {"device": "cuda", "workers": 64, "batch_size": 512}
    found = {stage: _of(large, zero_stage=stage, **settings) for stage in (0, 1, 2, 3)}
    for stage, (weights, optimizer) in {
        0: (2 * size, 12 * size),
        1: (2 * size, 12 * size / 64),
        2: (2 * size, 12 * size / 64),
        3: (2 * size / 64 + gathered, 12 * size / 64),
    }.items():
        assert found[stage].weights == pytest.approx(1.05 * weights, rel=1e-6)
        assert found[stage].optimizer == pytest.approx(1.05 * optimizer, rel=1e-6)
    assert found[1].gradients > found[2].gradients == found[3].gradients


@pytest.mark.parametrize(
    ("dearer", "cheaper"),
    [
        ({"micro_batch_size": 8}, {"micro_batch_size": 4}),
        ({}, {"gradient_checkpointing": True}),
        ({"packing": True}, {}),
        ({"fused_head": False}, {"fused_head": True}),
        ({}, {"lora": {}}),
        ({"lora": {}}, {"lora": {"quantize": "nf4"}}),
        ({"precision": "float32"}, {"precision": "bfloat16"}),
        ({"zero_stage": 1}, {"zero_stage": 2}),
        ({"zero_stage": 2}, {"zero_stage": 3}),
        ({}, {"offload": {"optimizer": True}}),
        ({"zero_stage": 3}, {"zero_stage": 3, "offload": {"parameters": True}}),
    ],
)
def test_what_saves_memory_is_estimated_to(large: ModelShape, dearer: Any, cheaper: Any) -> None:
    one, other = (_of(large, device="cuda", workers=4, **settings) for settings in (dearer, cheaper))
    assert other.device < one.device


def test_what_is_offloaded_lies_in_the_machines_memory(large: ModelShape) -> None:
    settings: dict[str, Any] = {"workers": 1, "device": "cuda", "zero_stage": 3}
    hosts = [
        _of(large, **settings, offload={"optimizer": True, **more}).host - _of(large, **settings).host
        for more in ({}, {"parameters": True})
    ]
    # Two moments, master weights and the gradients of a step; then the weights. Loading took 4 bytes a weight of it.
    assert hosts[0] == pytest.approx((16 - 4) * large.parameters, rel=1e-6)
    assert hosts[1] - hosts[0] == pytest.approx(2 * large.parameters, rel=1e-6)


def test_the_completions_length_counts_where_the_head_is_fused(shape: ModelShape) -> None:
    student = Student(workers=2)
    heads = [estimate(shape, student, workers=2, k=20, completion=tokens).head for tokens in (2, 16, 32, 64)]
    assert heads[0] < heads[1] < heads[2] == heads[3], "no completion is longer than its record"


def test_enough_memory_passes(shape: ModelShape) -> None:
    student = Student(workers=2)
    needed = estimate(shape, student, workers=2, k=20)
    available = Memory(device=needed.device, host=needed.host)
    assert require_fits(shape, student, available, workers=2, k=20) == needed
    with pytest.raises(UserError):
        require_fits(shape, student, Memory(device=needed.device - 1, host=needed.host), workers=2, k=20)


def test_loading_takes_memory_too(shape: ModelShape) -> None:
    source = model_shape(_config(), length=32, source=_config(num_hidden_layers=2000))
    assert source.loaded > 100 * shape.loaded == 100 * shape.parameters
    student = Student(workers=2)
    one, other = (estimate(each, student, workers=2, k=20) for each in (shape, source))
    assert other.device == pytest.approx(other.overhead + 4 * source.loaded)
    assert one.device < other.device
    on_gpus = student.model_copy(update={"device": "cuda"})
    hosts = [estimate(each, on_gpus, workers=2, k=20).host for each in (shape, source)]
    assert hosts[1] - hosts[0] == 4 * (source.loaded - shape.loaded)


def test_workers_share_the_machine() -> None:
    alone, four = available_memory("cpu", 1), available_memory("cpu", 4)
    assert alone.device == alone.host <= psutil.virtual_memory().total
    assert four.device == pytest.approx(alone.device / 4, rel=0.2)


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "anon 500\ninactive_file 150\n"}, [450]),
        ({"memory.max": "max\n", "memory.current": "700\n", "memory.stat": "inactive_file 150\n"}, []),
        (
            {
                "memory/memory.limit_in_bytes": "1000",
                "memory/memory.usage_in_bytes": "900",
                "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 50\n",
            },
            [150],
        ),
        ({}, []),
    ],
)
def test_a_containers_limit_counts(tmp_path: Path, files: dict[str, str], left: list[int]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(memory._cgroup_left(tmp_path)) == left


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "length", "completion"),
    [
        ({"workers": 1, "zero_stage": 2, "micro_batch_size": 8, "batch_size": 8}, 128, 4),
        ({"workers": 2, "zero_stage": 3, "micro_batch_size": 4, "batch_size": 8, "lora": {}}, 128, 64),
    ],
    ids=["all-weights", "two-workers-adapters"],
)
def test_a_real_training_takes_what_was_estimated(
    student: dict[str, Any],
    length: int,
    completion: int,
    tmp_path: Path,
    make_recipe: Callable[..., Recipe],
    make_tokenizer: Callable[..., Any],
) -> None:
    # SmolLM2-135M's layers, of which the example's student has six.
    config = _config(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    make_tokenizer("good bad film plot the a yes no").save_pretrained(tmp_path)
    recipe = make_recipe({"teacher.model": str(tmp_path), "student": student})

    peak = max(training_process.train(recipe, steps=2, length=length, completion=completion))

    found = estimate(
        model_shape(config, length=length), recipe.student, workers=student["workers"], k=4, completion=completion
    )
    assert 0.8 * peak < found.device < 1.35 * peak, f"{found}, and it took {peak / GIB:.2f} GiB"
