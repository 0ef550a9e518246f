"""Training on real Ray Train workers with real DeepSpeed: it learns, it resumes, and it does not matter on how many."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ray_jobs.cluster import connected
from ray_jobs.train.job import train
from stillhouse.data import Record
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.signal.schema import Completion, to_row, to_table, write_table
from stillhouse.signal.sparse import SparseSignal

pytestmark = pytest.mark.slow

WORDS = "good bad film plot the a yes no"


@pytest.fixture(scope="module", autouse=True)
def _ray(s3: Callable[[], str]) -> Iterator[None]:
    """Started after the S3 server, so that its workers know where that is."""
    with connected():
        yield


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., Any]) -> Path:
    """A small random Llama with a tokenizer of ten words."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer(WORDS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def make_run(
    tmp_path_factory: pytest.TempPathFactory, teacher: Path, make_recipe: Callable[..., Recipe]
) -> Callable[..., tuple[Recipe, Run]]:
    """A recipe and a run with a dataset: the answer is `yes` after `good`, and `no` after `bad`."""

    def make(name: str, uri: str | None = None, **student: Any) -> tuple[Recipe, Run]:
        defaults = {"epochs": 2, "batch_size": 8, "micro_batch_size": 2, "learning_rate": 0.01, "checkpoint_every": 100}
        changes = {f"student.{key}": value for key, value in {**defaults, **student}.items()}
        recipe = make_recipe(
            {
                "teacher.model": str(teacher),
                "student.init": {"kind": "teacher_layers", "layers": 2},
                **changes,
            }
        )
        run = Run.open(uri or str(tmp_path_factory.mktemp(name) / "run"))
        run.begin(recipe)
        generator = random.Random(0)
        for split, count in (("train", 44), ("validation", 10)):
            rows = [_row(generator, i) for i in range(count)]
            run.storage.write(f"dataset/{split}.parquet", write_table(to_table(rows), {}))
        run.commit("dataset", recipe=recipe, inputs={}, counts={"train": 44}, began=0.0)
        return recipe, run

    return make


def _row(generator: random.Random, i: int) -> dict[str, Any]:
    good = generator.random() < 0.5
    prompt = [generator.choice([4, 5, 6, 7]) for _ in range(generator.randint(1, 6))] + [2 if good else 3]
    answer, other = (8, 9) if good else (9, 8)
    signal = SparseSignal.of([[answer, other], [0]], [[-0.05, -3.02], [0.0]])
    return to_row(Record(str(i), i, {}, None), Completion(prompt, "", [answer, 0], "stop", None, signal))


def _weights(run: Run) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(run.fetch("student")).state_dict()
    return weights


def _distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in one)


def _curve(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in run.storage.read("student/training.jsonl").splitlines()]


def test_the_student_learns_what_the_teacher_says(
    make_run: Callable[..., tuple[Recipe, Run]], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = make_run("learns", epochs=8)

    train(recipe, run)

    manifest = run.manifest("student")
    assert manifest is not None
    assert manifest.counts["agreement"] == 1.0
    assert manifest.counts["records"] == 44
    assert manifest.counts["steps"] == 48
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {f.path for f in manifest.files}
    assert run.storage.list("training") == [], "what a resume would need is removed when the student is there"
    student = AutoModelForCausalLM.from_pretrained(run.fetch("student"))
    assert student.config.num_hidden_layers == 2
    with torch.no_grad():
        probabilities = student(torch.tensor([[4, 5, 2]])).logits[0, -1].softmax(-1)
    assert probabilities[8] == pytest.approx(0.95, abs=0.06), "the teacher's probability, not only its choice"

    steps = [row for row in _curve(run) if "learning_rate" in row]
    assert [row["step"] for row in steps] == list(range(1, 49))
    assert steps[-1]["loss"] < 0.1 * steps[0]["loss"]
    assert run.storage.exists("mlflow/mlflow.db")
    said = capsys.readouterr().out
    assert re.search(r"48/48 steps, KD [\d.]+, CE [\d.]+, \d+ tokens/s, MFU \d+%, [\d.]+ GiB, 0:00 left", said)


def test_every_way_to_spread_it_trains_the_same_student(make_run: Callable[..., tuple[Recipe, Run]]) -> None:
    alone = make_run("alone", workers=1, zero_stage=0, epochs=1)
    train(*alone)

    # 44 records in batches of 8: the last one is half empty, so that workers have uneven micro-batches.
    ways: list[dict[str, Any]] = [
        {"zero_stage": 1, "packing": True, "offload": {"optimizer": True}},
        {"zero_stage": 2, "fused_head": False},
        {"zero_stage": 3, "gradient_checkpointing": True, "offload": {"optimizer": True, "parameters": True}},
    ]
    for number, way in enumerate(ways):
        together = make_run(f"way{number}", workers=2, epochs=1, micro_batch_size=4, **way)
        train(*together)
        assert _distance(_weights(alone[1]), _weights(together[1])) < 2e-4, way


def test_adapters_are_merged_and_kept(make_run: Callable[..., tuple[Recipe, Run]], teacher: Path) -> None:
    recipe, run = make_run(
        "lora",
        epochs=8,
        precision="bfloat16",
        zero_stage=3,
        gradient_checkpointing=True,
        lora={"rank": 8, "alpha": 32.0},
    )

    train(recipe, run)

    whole, folder = _weights(run), run.fetch("student")
    assert whole["model.embed_tokens.weight"].dtype == torch.bfloat16
    origin = AutoModelForCausalLM.from_pretrained(teacher).state_dict()
    assert torch.equal(whole["model.embed_tokens.weight"], origin["model.embed_tokens.weight"].bfloat16()), "frozen"
    name = "model.layers.1.mlp.down_proj.weight"
    assert not torch.equal(whole[name], origin["model.layers.3.mlp.down_proj.weight"].bfloat16()), "trained"
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    losses = [row["validation_loss"] for row in _curve(run) if "validation_loss" in row]
    assert min(losses) < losses[0] - 0.05, "little, as its head is frozen, small and random"


def test_the_best_student_is_kept_and_a_worse_one_ends_the_training(
    make_run: Callable[..., tuple[Recipe, Run]], capsys: pytest.CaptureFixture[str]
) -> None:
    # A learning rate so high that the loss rises again.
    recipe, run = make_run("early", epochs=40, workers=1, learning_rate=0.3, validate_every=3, patience=2)

    train(recipe, run)

    validated = {row["step"]: row["validation_loss"] for row in _curve(run) if "validation_loss" in row}
    manifest = run.manifest("student")
    assert manifest is not None
    assert manifest.counts["best_step"] == min(validated, key=validated.__getitem__)
    assert manifest.counts["best_step"] == manifest.counts["steps"] - 2 * 3
    assert manifest.counts["loss"] == min(validated.values())
    assert "stopped early: 2 validations in a row without a lower loss" in capsys.readouterr().out


_LONG: dict[str, Any] = {"epochs": 10, "checkpoint_every": 5, "workers": 2}


@pytest.fixture(scope="module")
def undisturbed(make_run: Callable[..., tuple[Recipe, Run]]) -> dict[str, torch.Tensor]:
    """The weights of a training that nothing cut off."""
    whole = make_run("whole", **_LONG)
    train(*whole)
    return _weights(whole[1])


def _goes_on(recipe: Recipe, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.manifest("student") is None
    capsys.readouterr()
    train(recipe, run)
    resumed = re.search(r"goes on at step (\d+) of 60", capsys.readouterr().out)
    assert resumed
    assert 0 < int(resumed[1]) < 60


def test_a_training_stopped_by_ctrl_c_goes_on_to_the_very_same_weights_and_near_them_with_another_number_of_workers(
    make_run: Callable[..., tuple[Recipe, Run]],
    undisturbed: dict[str, torch.Tensor],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    recipe, run = make_run("stopped", **_LONG)
    words = [sys.executable, "-m", "ray_jobs.train", "--recipe", f"{run.uri}/recipe.yaml", "--run", run.uri]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as driver:
        _wait_for_a_checkpoint(run)
        started = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGINT)
        said = driver.communicate(timeout=120)[1]
    assert driver.returncode == 130
    assert "stopped: what was finished is kept" in said
    assert "Traceback" not in said
    assert psutil.wait_procs(started, timeout=60)[1] == []
    shutil.copytree(run.uri, tmp_path / "resized")
    resized = Run.open(str(tmp_path / "resized"))

    _goes_on(recipe, run, capsys)
    assert _distance(undisturbed, _weights(run)) == 0.0

    # What it checkpoints with one worker must fit as well as what two have left.
    one = recipe.student.model_copy(update={"workers": 1})
    _goes_on(recipe.model_copy(update={"student": one}), resized, capsys)
    assert _distance(undisturbed, _weights(resized)) < 2e-4


def _wait_for_a_checkpoint(run: Run) -> None:
    deadline = time.monotonic() + 240
    while not any("checkpoint_manager_snapshot" in key for key in run.storage.list("training")):
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.05)


def test_a_loss_that_is_no_number_stops_with_a_sentence_and_leaves_an_older_student_alone(
    make_run: Callable[..., tuple[Recipe, Run]], teacher: Path, tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    broken = LlamaForCausalLM.from_pretrained(teacher)
    torch.nn.init.constant_(broken.model.norm.weight, torch.nan)
    broken.save_pretrained(tmp_path)
    make_tokenizer(WORDS).save_pretrained(tmp_path)
    recipe, run = make_run("nan", init={"kind": "pretrained", "model": str(tmp_path)})
    run.storage.write("student/model.safetensors", b"an older one")
    older = run.commit("student", recipe=recipe, inputs={}, began=0.0)

    with pytest.raises(UserError, match="the loss at step 1 is not a number any more: lower"):
        train(recipe, run)
    assert run.manifest("student") == older
    assert run.storage.read("student/model.safetensors") == b"an older one"
