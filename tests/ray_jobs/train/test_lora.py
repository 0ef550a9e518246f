"""Adapters: they alone are trained, they begin at zero, and what is saved is what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from ray_jobs.train.lora import adapted_layers, add_adapters, enable_checkpointing, quantization, save_adapter
from ray_jobs.train.save import merged
from stillhouse.errors import UserError
from stillhouse.recipe import Lora

IDS = torch.tensor([[1, 2, 3, 4, 5]])


def _model(seed: int = 0, *, tied: bool = True) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
    )
    return AutoModelForCausalLM.from_config(config)


def _silent(text: str) -> None:
    pass


def _adapted(lora: Lora | None = None, *, trained: bool = True) -> Any:
    model = add_adapters(_model(), lora or Lora(rank=4, alpha=16), seed=0, say=_silent)
    if trained:
        for _, layer in adapted_layers(model):
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    return model


def _loss(model: Any) -> torch.Tensor:
    loss: torch.Tensor = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    return loss


def test_adapters_alone_are_trained() -> None:
    model = _adapted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    _loss(model).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        adapter = ".lora_" in name
        assert parameter.requires_grad == adapter
        assert (parameter.grad is not None) == adapter
        assert torch.equal(parameter, before[name]) != adapter, name


def test_adapters_begin_at_zero_on_every_linear_layer_but_the_head_and_tell_their_share() -> None:
    said: list[str] = []
    model = add_adapters(_model(tied=False), Lora(rank=4), seed=0, say=said.append)
    assert torch.equal(model(IDS).logits, _model(tied=False)(IDS).logits)
    names = {name for name, _ in adapted_layers(model)}
    assert len(names) == 2 * 7
    assert not any("lm_head" in name for name in names)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in model.parameters())
    assert said == [f"adapters of rank 4: 0.00M parameters are trained, {trained / whole:.2%}"]
    assert type(model).__name__ == "LlamaForCausalLM", "in place: what DeepSpeed and the loss see is the plain model"


def test_the_seed_decides_the_adapters_first_weights() -> None:
    def first(seed: int) -> torch.Tensor:
        model = add_adapters(_model(), Lora(rank=4), seed=seed, say=_silent)
        torch.rand(3)
        weight: torch.Tensor = next(layer for _, layer in adapted_layers(model)).lora_A["default"].weight
        return weight

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_named_targets_get_adapters_and_unknown_ones_are_refused() -> None:
    model = _adapted(Lora(rank=4, targets=("q_proj", "mlp.up_proj")))
    assert {name.rpartition(".")[2] for name, _ in adapted_layers(model)} == {"q_proj", "up_proj"}
    with pytest.raises(UserError, match=r"named `qproj`; did you mean `q_proj`\? \(it has down_proj, gate_proj, "):
        _adapted(Lora(targets=("qproj",)))


def test_dropout_is_there_in_training_alone() -> None:
    model = _adapted(Lora(rank=4, dropout=0.5))
    model.eval()
    assert torch.equal(model(IDS).logits, model(IDS).logits)
    model.train()
    assert not torch.equal(model(IDS).logits, model(IDS).logits)


def test_the_scale_is_alpha_over_rank() -> None:
    model = _adapted(Lora(rank=4, alpha=10))
    name, layer = next(adapted_layers(model))
    x = torch.randn(3, layer.in_features)
    added = x @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T * 2.5
    torch.testing.assert_close(layer(x), layer.base_layer(x) + added)
    torch.testing.assert_close(merged(model).get_submodule(name).weight, layer.base_layer.weight + _added(layer, 2.5))


def _added(layer: Any, scale: float) -> torch.Tensor:
    return layer.lora_B["default"].weight @ layer.lora_A["default"].weight * scale


@torch.no_grad()
def test_the_merged_model_answers_as_the_adapted_one_which_is_left_alone() -> None:
    model = _adapted().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = model(IDS).logits
    plain = merged(model)
    assert not any(adapted_layers(plain))
    assert (logits - _model()(IDS).logits).abs().max() > 1e-3, "the adapters say something"
    torch.testing.assert_close(plain(IDS).logits, logits)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(model(IDS).logits, logits)


@torch.no_grad()
def test_peft_loads_the_saved_adapter_onto_the_base(tmp_path: Path) -> None:
    model = _adapted(Lora(rank=4, alpha=16, dropout=0.5)).eval()
    save_adapter(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(_model(), tmp_path).eval()
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"]), "the same file from every process"
    assert config["lora_dropout"] == 0.5
    assert config["inference_mode"] is True
    assert model.peft_config["default"].inference_mode is False
    assert all(value.dtype == torch.float32 for value in load_file(tmp_path / "adapter_model.safetensors").values())


@pytest.mark.parametrize("zero_stage", [2, 3])
@pytest.mark.parametrize("adapted", [True, False])
def test_gradients_are_the_same_when_activations_are_computed_twice(zero_stage: int, adapted: bool) -> None:
    plain, saving = (_adapted() if adapted else _model(), _adapted() if adapted else _model())
    saving.load_state_dict(plain.state_dict())
    enable_checkpointing(saving, zero_stage=zero_stage)
    calls = []
    saving.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for model in (plain, saving):
        model.train()
        _loss(model).backward()
    assert len(calls) == 2, "once forward, once again in the backward pass"
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_four_bits_without_a_gpu_are_refused() -> None:
    with pytest.raises(UserError, match="nf4` needs a GPU, and this worker has none"):
        quantization()
