"""Tuning a teacher on gold labels: on real Ray Train workers it learns them, and goes on where it was cut off."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ray_jobs.cluster import connected
from ray_jobs.pipeline import JOBS, pipeline
from ray_jobs.train.model_card import model_card, tuned_card
from ray_jobs.tune import _in_section, tune
from stillhouse import lineage
from stillhouse.data import Records
from stillhouse.errors import UserError
from stillhouse.models import load_tokenizer, resolve
from stillhouse.recipe import Recipe
from stillhouse.run import STEPS, Run, Step
from stillhouse.signal.schema import read_table
from stillhouse.task import render, token_ids
from stillhouse.teachers import tuned

WORDS = "good bad film plot the a Review Sentiment : positive negative"


@pytest.fixture
def recipe(tmp_path: Path, make_recipe: Callable[..., Recipe], make_tokenizer: Callable[..., Any]) -> Recipe:
    """A random Llama of two layers, and 120 reviews that are positive where they say `good`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    make_tokenizer(WORDS).save_pretrained(tmp_path / "base")
    draw = random.Random(0)
    rows = []
    for i in range(120):
        words = draw.choices(["film", "plot", "the", "a"], k=draw.randint(4, 9))
        words[draw.randrange(len(words))] = "good" if i % 2 else "bad"
        rows.append({"id": f"r{i}", "text": " ".join(words), "label": "positive" if i % 2 else "negative"})
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return make_recipe(
        {
            "data.path": str(tmp_path / "data.jsonl"),
            "teacher.model": str(tmp_path / "base"),
            "student.tracking": {"mlflow": None},
            "teacher.tune": {
                "records": 60,
                "validation": 0.2,
                "epochs": 12,
                "learning_rate": 0.01,
                "batch_size": 8,
                "micro_batch_size": 8,
                "workers": 1,
                "validate_every": 24,
                "checkpoint_every": 30,
            },
        }
    )


@pytest.fixture
def _ray(s3: Callable[[], str], cache: Path) -> Iterator[None]:
    """Started after the S3 server, and with this test's cache, so that its workers know of both."""
    with connected():
        yield


def _right(model: str, recipe: Recipe, left_out: set[str]) -> float:
    """The share of the records, but for those that are `left_out`, whose gold choice is the likelier one."""
    weights, tokenizer = AutoModelForCausalLM.from_pretrained(resolve(model)), load_tokenizer(model)
    choices = {choice.strip(): tokenizer(choice)["input_ids"][0] for choice in recipe.task.choices}
    found = []
    for record in Records(recipe):
        if record.id not in left_out:
            ids = token_ids(render(recipe.task, record.fields), tokenizer)
            with torch.no_grad():
                logits = weights(torch.tensor([ids])).logits[0, -1]
            found.append(max(choices, key=lambda choice: logits[choices[choice]].item()) == record.gold)
    return sum(found) / len(found)


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_a_tuned_teacher_knows_the_gold_answers_and_a_cut_off_tuning_goes_on_to_the_very_same(
    recipe: Recipe, s3: Callable[[], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open(s3())
    run.begin(recipe)

    def cut_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "commit", cut_off)
        with pytest.raises(KeyboardInterrupt):
            tune(recipe, run)
    assert run.manifest("teacher") is None
    weights = run.storage.read("teacher/model.safetensors")
    with pytest.raises(UserError, match="has no finished teacher: run `stillhouse tune` first"):
        tuned(recipe, run)
    capsys.readouterr()

    tune(recipe, run)

    resumed = re.search(r"\[tune\] goes on at step (\d+) of 72", capsys.readouterr().out)
    assert resumed
    assert int(resumed[1]) >= 30
    assert run.storage.read("teacher/model.safetensors") == weights
    assert run.storage.list("training") == []
    assert [status.state for status in lineage.statuses(recipe, run)][:2] == ["done", "missing"]
    manifest = run.manifest("teacher")
    assert manifest is not None
    assert {"config.json", "tokenizer.json", "README.md", "data/train.parquet", "data/validation.parquet"} <= {
        entry.path for entry in manifest.files
    }
    assert (manifest.counts["records"], manifest.counts["train"] + manifest.counts["validation"]) == (60, 60)
    seen = set()
    for split in ("train", "validation"):
        table = read_table(run.storage.read(f"teacher/data/{split}.parquet"), name=split)
        assert table.num_rows == manifest.counts[split]
        assert all(row["completion"].strip() == row["gold"] for row in table.to_pylist())
        seen |= set(table["id"].to_pylist())
    assert len(seen) == 60
    model = tuned(recipe, run).teacher.model
    assert _right(recipe.teacher.model, recipe, seen) < 0.8
    assert _right(model, recipe, seen) == 1.0, "records that it was not tuned on"
    card = run.storage.read("teacher/README.md").decode()
    assert "60 gold answers" in card
    assert f"base_model: {recipe.teacher.model}" not in card, "a local folder is no name on the hub"


def test_the_cards_say_what_the_teacher_was_tuned_on(make_recipe: Callable[..., Recipe]) -> None:
    tune = {"records": 500, "epochs": 4, "learning_rate": 0.0001, "lora": {"rank": 4}}
    recipe = make_recipe({"teacher.model": "org/teacher", "teacher.tune": tune})
    card = tuned_card(recipe, {"data": "ab12"}, {"loss": 0.25, "kd": 0.0, "agreement": 0.9}, {"records": 450})
    _, head, body = card.split("---\n")
    assert yaml.safe_load(head)["base_model"] == "org/teacher"
    assert yaml.safe_load(head)["tags"] == ["stillhouse", "fine-tuning"]
    for line in (
        "- Data: `/nowhere/data.jsonl`, 500 gold answers: 450 trained on, the rest to choose the best epoch by",
        "- Loss: cross-entropy on the gold answers' tokens",
        "at most 4 epochs of batches of 32, peak learning rate 0.0001",
        "- Trained: adapters of rank 4",
        "| agreement | 0.9000 |",
        "| data | `ab12` |",
    ):
        assert line in body
    assert "| kd |" not in body
    of_student = model_card(recipe, {}, {}, {})
    assert "Distilled by stillhouse from `org/teacher`, tuned on 500 gold labels for" in of_student


def test_the_pipeline_tunes_first_where_the_recipe_says_so(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "teacher").mkdir()
    (tmp_path / "data.jsonl").write_text('{"text": "fine", "label": "positive"}\n')
    places = {"data.path": str(tmp_path / "data.jsonl"), "teacher.model": str(tmp_path / "teacher")}
    done: list[str] = []

    def job(step: Step) -> Callable[[Recipe, Run], None]:
        def finish(recipe: Recipe, run: Run) -> None:
            done.append(step)
            run.storage.write(f"{step}/content", step.encode())
            run.commit(step, recipe=recipe, inputs=lineage.inputs(step, recipe, run), began=0.0)

        return finish

    monkeypatch.setattr("ray_jobs.pipeline.JOBS", {step: job(step) for step in JOBS})
    run = Run.open(str(tmp_path / "run"))
    pipeline(make_recipe(places), run)
    assert done == list(STEPS)
    tuned_first = make_recipe({**places, "teacher.tune": {}})
    done.clear()
    pipeline(tuned_first, run)
    assert done[:2] == ["teacher", "capture"]
    done.clear()
    pipeline(tuned_first, run)
    assert done == []


def test_a_recipe_that_tunes_nothing(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the recipe has no `teacher\.tune`"):
        tune(make_recipe(), Run.open(str(tmp_path)))


def test_mistakes_are_told_of_the_keys_that_were_tuned_with() -> None:
    told = "no train record fits into 8 tokens: raise `student.max_length`"
    assert _in_section(told) == "no train record fits into 8 tokens: raise `teacher.tune.max_length`"
    told = "training/x/data/train.parquet is damaged: curate again; a smaller `student` might fit"
    assert _in_section(told) == "training/x/data/train.parquet is damaged: tune again; a smaller `teacher` might fit"
