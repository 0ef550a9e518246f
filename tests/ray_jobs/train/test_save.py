"""The written folder: what was trained, and nothing of how; the live model stays as it was, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import training_process
from engine_process import EngineProcess
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig

from ray_jobs.train.lora import adapted_layers, add_adapters, enable_checkpointing
from ray_jobs.train.save import write_folder
from ray_jobs.train.student_init import make_student
from stillhouse.recipe import Capture, Engine, Lora, Recipe, Task

WORDS = "good bad film plot the a yes no"
IDS = torch.tensor([[1, 2, 3, 4, 5]])


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer: Callable[..., Any]) -> Any:
    return make_tokenizer(WORDS)


def _model(*, tied: bool = True) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=0,
        tie_word_embeddings=tied,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def _adapted() -> Any:
    model = add_adapters(_model(), Lora(rank=4), seed=0, say=lambda _: None)
    for _, layer in adapted_layers(model):
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("adapted", [True, False])
def test_the_folder_loads_as_the_trained_model(tmp_path: Path, tokenizer: Any, tied: bool, adapted: bool) -> None:
    model = _model(tied=tied)
    if adapted:
        add_adapters(model, Lora(rank=4), seed=0, say=lambda _: None)
        for _, layer in adapted_layers(model):
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    write_folder(model, tokenizer, tmp_path, dtype=torch.float32, card="# A card\n")

    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == torch.float32
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits)
    assert not any("lora" in name for name in load_file(tmp_path / "model.safetensors"))
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()
    assert (tmp_path / "README.md").read_text() == "# A card\n"
    assert (tmp_path / "adapter").is_dir() == adapted


@torch.no_grad()
def test_half_precision_halves_the_file_and_not_the_live_model(tmp_path: Path, tokenizer: Any) -> None:
    model = _adapted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = model(IDS).logits
    write_folder(model, tokenizer, tmp_path, dtype=torch.bfloat16, card="")

    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    torch.testing.assert_close(again.float()(IDS).logits, logits, atol=0.05, rtol=0.05)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(model(IDS).logits, logits)


def test_a_training_goes_on_after_a_save_as_if_there_had_been_none(tmp_path: Path, tokenizer: Any) -> None:
    def trained(saves: bool) -> dict[str, torch.Tensor]:
        model = _adapted().train()
        enable_checkpointing(model, zero_stage=2)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for step in range(4):
            optimizer.zero_grad()
            model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
            optimizer.step()
            if saves and step == 1:
                write_folder(model, tokenizer, tmp_path, dtype=torch.float32, card="")
                assert model.training
        state: dict[str, torch.Tensor] = model.state_dict()
        return state

    with_save, without = trained(True), trained(False)
    for name, value in with_save.items():
        assert torch.equal(value, without[name]), name


def test_the_config_tells_nothing_of_the_training(tmp_path: Path, tokenizer: Any) -> None:
    model = _adapted().train()
    enable_checkpointing(model, zero_stage=2)
    model.config.use_cache = False
    write_folder(model, tokenizer, tmp_path, dtype=torch.float32, card="")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["use_cache"] is True
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config
    assert model.config.use_cache is False


def test_what_ends_a_completion_is_kept_and_how_the_teacher_sampled_is_not(
    tmp_path: Path, make_tokenizer: Callable[..., Any], make_recipe: Callable[..., Recipe]
) -> None:
    teacher = _model()
    teacher.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.9, repetition_penalty=1.1, eos_token_id=[0, 5], bos_token_id=3
    )
    teacher.save_pretrained(tmp_path / "teacher")
    make_tokenizer(WORDS).save_pretrained(tmp_path / "teacher")
    recipe = make_recipe({"teacher.model": str(tmp_path / "teacher"), "student.init": {"layers": 1}})

    model, tokenizer = make_student(recipe, say=lambda _: None)
    write_folder(model, tokenizer, tmp_path / "student", dtype=torch.float32, card="")

    found = json.loads((tmp_path / "student" / "generation_config.json").read_text())
    assert found["eos_token_id"] == [0, 5]
    assert found["bos_token_id"] == 3
    assert not {"temperature", "top_p", "do_sample", "repetition_penalty"} & set(found)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["all-weights", "adapters"])
def test_partitioned_weights_are_written_whole_and_training_goes_on(
    lora: dict[str, Any] | None, tmp_path: Path, tokenizer: Any, make_recipe: Callable[..., Recipe]
) -> None:
    _model().save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    student = {
        "init": {"layers": 2},
        "workers": 2,
        "zero_stage": 3,
        "batch_size": 4,
        "micro_batch_size": 2,
        "lora": lora,
        "gradient_checkpointing": True,
        "learning_rate": 0.05,
    }
    recipe = make_recipe({"teacher.model": str(tmp_path / "teacher"), "student": student})

    training_process.train(recipe, steps=4, length=12, completion=3, saved=tmp_path)

    half, whole = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("half", "whole"))
    trained = _model()
    if lora:
        add_adapters(trained, Lora(**lora), seed=0, say=lambda _: None)
    trained.load_state_dict(torch.load(tmp_path / "live.pt"))
    with torch.no_grad():
        torch.testing.assert_close(whole(IDS).logits, trained.eval()(IDS).logits)
        assert (whole(IDS).logits - half(IDS).logits).abs().max() > 1e-3, "steps after a save are steps"
        assert (half(IDS).logits - _model()(IDS).logits).abs().max() > 1e-3
    assert (tmp_path / "whole" / "adapter").is_dir() == bool(lora)


@pytest.mark.slow
def test_vllm_answers_as_the_trained_model(tmp_path: Path, tokenizer: Any, engines: EngineProcess) -> None:
    model = _adapted()
    write_folder(model, tokenizer, tmp_path, dtype=torch.float32, card="")
    task = Task.model_validate({"kind": "text", "prompt": "{text}", "max_tokens": 4})
    engine = Engine(dtype="float32", max_model_len=64, max_num_seqs=4, kv_cache_gb=0.1)
    with engines.start(task, Capture(top_k=5), engine=engine, model=str(tmp_path)) as started:
        ((completion,),) = started.complete(IDS.tolist())
    with torch.no_grad():
        logprobs = model(torch.tensor([[*IDS[0].tolist(), *completion.token_ids]])).logits[0].log_softmax(-1)
    assert completion.signal is not None
    for place in range(len(completion.token_ids)):
        expected = logprobs[len(IDS[0]) - 1 + place].topk(5)
        ids, values = completion.signal.at(place)
        assert ids.tolist() == expected.indices.tolist()
        torch.testing.assert_close(torch.from_numpy(values), expected.values, atol=1e-4, rtol=1e-4)
