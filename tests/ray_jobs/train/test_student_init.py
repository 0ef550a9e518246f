"""The student before training: a cut of the teacher that runs, and whose layers are the teacher's."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ray_jobs.train.student_init import chosen_layers, cut_layers
from stillhouse.errors import UserError
from stillhouse.recipe import StudentInit


def _teacher(layers: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize(("layers", "kept"), [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, list(range(10)))])
def test_layers_are_evenly_spaced_with_the_first_and_the_last(layers: int, kept: list[int]) -> None:
    assert chosen_layers(StudentInit(layers=layers), 10) == kept
    teacher = _teacher(10)
    weights = [layer.mlp.up_proj.weight.clone() for layer in teacher.model.layers]
    embedding = teacher.model.embed_tokens.weight.clone()

    student = cut_layers(teacher, kept)

    assert student.config.num_hidden_layers == layers
    for layer, original in zip(student.model.layers, kept, strict=True):
        assert torch.equal(layer.mlp.up_proj.weight, weights[original])
    assert torch.equal(student.lm_head.weight, embedding), "tied, as in the teacher"


def test_the_cut_generates_with_a_cache_as_without_and_loads_again(tmp_path: object) -> None:
    student = cut_layers(_teacher(6), [0, 2, 5]).eval()
    ids = torch.tensor([[1, 2, 3]])

    with_cache = student.generate(ids, max_new_tokens=5, do_sample=False, use_cache=True)
    without = student.generate(ids, max_new_tokens=5, do_sample=False, use_cache=False)
    student.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path)

    assert with_cache.tolist() == without.tolist()
    torch.testing.assert_close(again(ids).logits, student(ids).logits)


def test_more_layers_than_the_teacher_has_are_refused() -> None:
    with pytest.raises(UserError, match="7 is more than the teacher's 6"):
        chosen_layers(StudentInit(layers=7), 6)
