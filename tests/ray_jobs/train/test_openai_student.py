"""Fine-tuning through an API: one job whatever happens in between, its events, and what is kept of it."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets_made import commit_dataset, row, sentiment
from scripted_endpoint import Reply, error
from scripted_tuning import BASE, ScriptedTuning

from ray_jobs.train import openai_student
from ray_jobs.train.job import train
from stillhouse import lineage
from stillhouse.endpoint import client
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import dump_recipe
from stillhouse.run import Run

KEY = "sk-a-secret/of+the=tests"
MakeRecipe = Callable[..., Recipe]


def right(prompt: str) -> str:
    return "positive" if "good" in prompt else "negative"


class Training:
    """`train` on one run, again and again."""

    def __init__(self, make_recipe: MakeRecipe, tmp_path: Path) -> None:
        self._make = make_recipe
        (tmp_path / "teacher").mkdir()
        (tmp_path / "teacher" / "config.json").write_text("{}")
        self._teacher = str(tmp_path / "teacher")
        self.run = Run.open(str(tmp_path / "run"))

    def recipe(self, endpoint: ScriptedTuning, **openai: Any) -> Recipe:
        said = {"model": BASE, "url": endpoint.url, "api_key_env": "STUDENT_KEY", "poll_s": 0.01, "max_attempts": 3}
        return self._make({"teacher.model": self._teacher, "student.openai": {**said, **openai}})

    def dataset(self, recipe: Recipe, count: int = 30) -> None:
        texts = [f"a {'good' if i % 3 else 'dull'} film, {i}" for i in range(count)]
        commit_dataset(recipe, self.run, {"train": sentiment(texts[:-5]), "validation": sentiment(texts[-5:])})

    def __call__(self, endpoint: ScriptedTuning, **openai: Any) -> Recipe:
        recipe = self.recipe(endpoint, **openai)
        if self.run.manifest("dataset") is None:
            self.dataset(recipe)
        self.run.begin(recipe)
        train(recipe, self.run)
        return recipe

    @property
    def student(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run.storage.read("student/model.json"))
        return found


@pytest.fixture
def training(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    monkeypatch.setenv("STUDENT_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(client, "_FIRST_BACKOFF_S", 0.001)
    return Training(make_recipe, tmp_path)


def test_the_student_is_the_model_that_came_out(training: Training, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedTuning(right, key=KEY, polls=4) as endpoint:
        recipe = training(endpoint, epochs=2, suffix="films")
    (job,) = endpoint.jobs.values()
    assert training.student["model"] == f"ft:{BASE}:org:films:0"
    assert (training.student["job"], training.student["url"]) == (job["id"], endpoint.url)
    assert "api_key_env" not in training.student["openai"]
    manifest = training.run.manifest("student")
    assert manifest is not None
    assert manifest.counts == {"records": 25, "train_loss": 0.01, "validation_loss": 0.25, "trained_tokens": 1234}
    assert training.run.status("student", lineage.inputs("student", recipe, training.run)).state == "done"
    assert training.run.storage.list("training") == []
    assert (job["seed"], job["metadata"]["stillhouse_run"]) == (0, training.run.uri)
    assert job["hyperparameters"] == {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert endpoint.file(job["training_file"])[1]["messages"] == [
        {"role": "user", "content": "Review: a good film, 1\nSentiment:"},
        {"role": "assistant", "content": "positive"},
    ]
    assert len(endpoint.file(job["validation_file"])) == 5
    said = [line.removeprefix("[train] ") for line in capsys.readouterr().out.splitlines()]
    told = [line for line in said if line in {event["message"] for event in endpoint.events[job["id"]]}]
    # Of two steps between two looks the second is told.
    assert told == [
        "Created fine-tuning job: ftjob-0",
        "Step 2: training loss=0.5",
        "Step 4: training loss=0.25",
        "Step 6: training loss=0.167",
        "Step 9: training loss=0.01",
        f"New fine-tuned model created: ft:{BASE}:org:films:0",
        "The job has succeeded",
    ]
    assert not any(KEY in line for line in said)


def test_a_run_on_s3(training: Training, s3: Callable[[], str], cache: Path) -> None:
    training.run = Run.open(s3())
    with ScriptedTuning(right, key=KEY, polls=2) as endpoint:
        training(endpoint)
    assert training.student["job"] == "ftjob-0"
    assert training.run.storage.list("training") == []


def test_the_recipes_name_goes_into_the_models_and_a_split_may_be_empty(training: Training) -> None:
    with ScriptedTuning(right, key=KEY) as endpoint:
        recipe = training.recipe(endpoint)
        rows = sentiment([f"a good film, {i}" for i in range(12)])
        cut = [row(90, "a good film", " positive", finish_reason="length")]
        commit_dataset(recipe, training.run, {"train": rows, "validation": cut})
        training(endpoint)
    (job,) = endpoint.jobs.values()
    assert (job["suffix"], "validation_file" in job) == ("tiny", False)


def test_a_dataset_that_breaks_the_rules_is_never_uploaded(training: Training) -> None:
    with ScriptedTuning(right, key=KEY) as endpoint:
        training.dataset(training.recipe(endpoint), count=12)
        with pytest.raises(UserError, match="it has 7 examples, and at least 10 are needed"):
            training(endpoint)
    assert (endpoint.uploads, endpoint.jobs) == ([], {})


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        ("failed", r"the fine-tuning job ftjob-0 failed: Line 3 is no conversation$"),
        ("cancelled", r"the fine-tuning job ftjob-0 was cancelled"),
    ],
)
def test_a_job_without_a_model_is_told_and_made_again(training: Training, outcome: str, sentence: str) -> None:
    with ScriptedTuning(right, key=KEY, outcome=outcome) as endpoint:
        with pytest.raises(UserError, match=sentence):
            training(endpoint)
        assert training.run.manifest("student") is None
        endpoint.outcome = "succeeded"
        training(endpoint)
    assert training.student["job"] == "ftjob-1"


def test_a_busy_endpoint_is_asked_again_and_nothing_is_made_twice(training: Training) -> None:
    with ScriptedTuning(right, key=KEY, polls=2) as endpoint:
        endpoint.scripted = [error(429, headers={"retry-after": "0"})]
        started, sent = endpoint._started, endpoint._uploaded
        lost = {"job": 1, "file": 1}

        def one_lost(name: str, make: Callable[..., Reply]) -> Callable[..., Reply]:
            def made(*words: Any) -> Reply:
                reply = make(*words)  # it is made, and its reply never comes
                lost[name] -= 1
                return error(502) if lost[name] == 0 else reply

            return made

        endpoint._started = one_lost("job", started)  # type: ignore[method-assign]
        endpoint._uploaded = one_lost("file", sent)  # type: ignore[method-assign]
        training(endpoint)
    assert (len(endpoint.jobs), len(endpoint.uploads)) == (1, 2)


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (error(401), r"refuses the key in STUDENT_KEY \(401\)"),
        (error(403, "no fine-tuning for you"), r"refuses all requests \(403: no fine-tuning for you\)"),
        (error(400, "bad purpose", param="purpose"), rf"{BASE} cannot be fine-tuned: .* \(400: bad purpose\)"),
        (error(500, "on fire"), r"did not answer in 3 attempts: 500: on fire: the same command goes on"),
        (error(429, "pay first", code="insufficient_quota"), r"has no money left \(429: pay first\)"),
    ],
)
def test_what_the_endpoint_refuses_is_one_sentence(training: Training, reply: Reply, sentence: str) -> None:
    with ScriptedTuning(right, key=KEY) as endpoint:
        endpoint.scripted = [reply] * 4
        with pytest.raises(UserError, match=sentence):
            training(endpoint)


def test_a_model_that_cannot_be_fine_tuned_keeps_the_uploads_for_the_next_start(training: Training) -> None:
    with ScriptedTuning(right, key=KEY) as endpoint:
        start = endpoint._started
        endpoint._started = lambda _: error(400, "not for fine-tuning", code="model_not_available")  # type: ignore[method-assign]
        with pytest.raises(UserError, match=rf"{BASE} cannot be fine-tuned: .*not for fine-tuning"):
            training(endpoint)
        endpoint._started = start  # type: ignore[method-assign]
        training(endpoint)
    assert (len(endpoint.jobs), len(endpoint.uploads)) == (1, 2)


def test_without_its_key_nothing_begins(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STUDENT_KEY")
    sentence = r"STUDENT_KEY holds no key for the student's endpoint: .*`student\.openai"
    with ScriptedTuning(right, key=KEY) as endpoint, pytest.raises(UserError, match=sentence):
        training(endpoint)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell's background job begins with SIGINT ignored, and so do the tests in it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


async def ctrl_c(_seconds: float) -> None:
    """The signal that the terminal sends, while the job is waited for."""
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(60)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_the_job_and_the_next_start_follows_it(
    training: Training, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedTuning(right, key=KEY, polls=3) as endpoint:
        with monkeypatch.context() as patch:
            patch.setattr(openai_student, "_pause", ctrl_c)
            with pytest.raises(KeyboardInterrupt):
                training(endpoint)
        first = capsys.readouterr().out
        training(endpoint)
    second = capsys.readouterr().out
    assert "the job ftjob-0 goes on at the endpoint: the same command follows it" in first
    assert "goes on with the job ftjob-0" in second
    assert "Step 2: training loss=0.5" in first
    assert "Step 2: training loss=0.5" not in second, "what was told is not told again"
    assert (len(endpoint.jobs), len(endpoint.uploads)) == (1, 2)


@pytest.mark.usefixtures("interruptible")
def test_another_recipe_is_another_job_and_the_old_one_is_named(
    training: Training, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedTuning(right, key=KEY, polls=2) as endpoint:
        with monkeypatch.context() as patch:
            patch.setattr(openai_student, "_pause", ctrl_c)
            with pytest.raises(KeyboardInterrupt):
                training(endpoint)
        training(endpoint, epochs=4)
    assert "no longer follows the job ftjob-0" in capsys.readouterr().out
    assert training.student["job"] == "ftjob-1"


def test_a_damaged_note_is_no_reason_to_pay_again(training: Training) -> None:
    with ScriptedTuning(right, key=KEY) as endpoint:
        recipe = training.recipe(endpoint)
        training.dataset(recipe)
        name = openai_student.digest(lineage.inputs("student", recipe, training.run))[:16]
        training.run.storage.write(f"training/{name}/openai.json", b"{")
        with pytest.raises(UserError, match="look at the endpoint's fine-tuning jobs"):
            training(endpoint)
    assert endpoint.jobs == {}


def test_a_key_that_only_says_how_it_is_asked_makes_no_other_student(training: Training) -> None:
    with ScriptedTuning(right, key=KEY) as endpoint:
        training(endpoint)
        changed = training.recipe(endpoint, poll_s=9.0, max_concurrency=3, timeout_s=5.0)
        other = training.recipe(endpoint, learning_rate_multiplier=2.0)
    assert training.run.status("student", lineage.inputs("student", changed, training.run)).state == "done"
    assert training.run.status("student", lineage.inputs("student", other, training.run)).state == "stale"
    assert not any(name.startswith("teacher") for name in lineage.inputs("student", other, training.run))


@pytest.mark.slow
def test_kill_9_at_every_step_uploads_and_starts_everything_once(training: Training, tmp_path: Path) -> None:
    pid, left = tmp_path / "pid", {"uploaded": 1, "tuned": 1, "polled": 1}

    def kill(place: str) -> Callable[[], None]:
        def killing() -> None:
            if left[place]:
                left[place] -= 1
                os.kill(int(pid.read_text()), signal.SIGKILL)

        return killing

    hooks = {place: kill(place) for place in left}
    with ScriptedTuning(right, key=KEY, polls=3, **hooks) as endpoint:
        recipe = training.recipe(endpoint)
        training.dataset(recipe)
        (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
        words = [str(tmp_path / "recipe.yaml"), training.run.uri, str(pid)]
        script = Path(__file__).parents[1] / "tuning_process.py"
        done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, timeout=200)
    assert done.stdout.splitlines()[-1] == "killed killed killed ended", (done.stdout, done.stderr)
    assert (len(endpoint.jobs), len(endpoint.uploads)) == (1, 2)
    assert training.student["job"] == "ftjob-0"
    assert training.run.storage.list("training") == []


def test_losses_that_are_no_numbers_are_no_losses() -> None:
    events = [
        openai_student.FineTuningJobEvent.construct(data=data)
        for data in ({"train_loss": 0.5}, None, [1], {"train_loss": math.nan, "valid_loss": True})
    ]
    assert openai_student._losses(events) == {"train_loss": 0.5}
