"""The shift, against transformers' own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from stillhouse.losses.shift import predicting_positions


def test_the_shift_is_that_of_a_causal_language_model() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    ).eval()
    prompt, completion = [3, 9, 4, 11], [7, 2, 5]
    ids = torch.tensor([prompt + completion])
    # transformers shifts by itself: labels of -100 carry no loss.
    theirs = model(input_ids=ids, labels=torch.tensor([[-100] * len(prompt) + completion])).loss

    positions = list(predicting_positions(len(prompt), len(completion)))
    logits = model(input_ids=ids).logits[0, positions]

    torch.testing.assert_close(functional.cross_entropy(logits, torch.tensor(completion)), theirs)


def test_a_completion_needs_a_prompt() -> None:
    with pytest.raises(ValueError, match="nothing predicts"):
        predicting_positions(0, 2)
