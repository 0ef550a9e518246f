"""DeepSpeed's stages: the same training, whoever holds what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import training_process
from transformers import AutoModelForCausalLM, LlamaConfig

from ray_jobs.train.distributed import _share_masters
from stillhouse.recipe import Recipe


def test_float32_weights_are_their_own_masters_and_others_are_not() -> None:
    weights = [torch.ones(8), torch.ones(8, dtype=torch.bfloat16)]
    masters = [torch.nn.Parameter(one.float().clone()) for one in weights]

    _share_masters(SimpleNamespace(fp16_partitioned_groups_flat=weights, fp32_partitioned_groups_flat=masters))
    for one in masters:
        one.data.add_(1)

    assert [one.tolist() for one in weights] == [[2.0] * 8, [1.0] * 8]
    assert [one.requires_grad for one in masters] == [True, True]


@pytest.mark.slow
def test_partitioned_weights_learn_what_whole_ones_do(
    tmp_path: Path, make_recipe: Callable[..., Recipe], make_tokenizer: Callable[..., Any]
) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=512,  # too large for ZeRO-3 to leave whole
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    make_tokenizer("good bad film plot the a yes no").save_pretrained(tmp_path / "model")
    found = {}
    for stage in (0, 3):
        student = {"workers": 2, "zero_stage": stage, "batch_size": 4, "micro_batch_size": 1, "init": {"layers": 2}}
        recipe = make_recipe({"teacher.model": str(tmp_path / "model"), "student": student})
        saved = tmp_path / str(stage)
        saved.mkdir()
        training_process.train(recipe, steps=4, length=10, completion=3, saved=saved)
        found[stage] = torch.load(saved / "live.pt")
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    for name, value in found[0].items():
        torch.testing.assert_close(found[3][name], value, rtol=1e-4, atol=1e-6)
        assert not torch.equal(value, before[name]), f"{name} did not learn"
