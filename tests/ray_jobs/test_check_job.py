"""`stillhouse check` with a teacher: what it asks, at what cost, and what it makes of the answers."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
from endpoint_parts import KEY, at, key, tokenizer_folder
from scripted_endpoint import Call, Reply, ScriptedEndpoint, error, one_of
from transformers import AutoTokenizer

from ray_jobs import check as job
from ray_jobs.capture.teacher import Answer, Failure, Identity, Question
from stillhouse.check.findings import Check
from stillhouse.check.inputs import read_inputs
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import dump_recipe
from stillhouse.signal.schema import Completion
from stillhouse.signal.sparse import SparseSignal
from stillhouse.task import token_ids

__all__ = ["key", "tokenizer_folder"]

EXAMPLE = Path(__file__).parents[2] / "examples/movie_reviews/recipe.yaml"
WORDS = "good film Review Sentiment : positive negative"
TEXTS = [f"{'good ' * (1 + i % 7)}film {i}" for i in range(60)]
ANSWER = one_of("positive", "negative")
TEXT_MODE = {"capture__mode": "text"}

IDENTITY = Identity("scripted", "tokens", "template", "scripted 1", "float32")

MakeRecipe = Callable[..., Recipe]


@dataclass
class Scripted:
    """A teacher in this process that says `positive`; it fails at ids in `fails`, and notes all that it is asked."""

    tokenizer: Any
    fails: set[str] = field(default_factory=set)
    asked: list[tuple[int, list[Question]]] = field(default_factory=list)
    identity: Identity = IDENTITY

    def answer(self, part: int, questions: Sequence[Question]) -> list[Answer]:
        self.asked.append((part, list(questions)))
        return [self._one(question) for question in questions]

    def _one(self, question: Question) -> Answer:
        if question.id in self.fails:
            return Failure("it has no wish to")
        ids = [7, 0] if question.completion is None else list(question.completion)
        signal = SparseSignal.of([[7, 8]] * 2, [[math.log(0.9), math.log(0.1)]] * 2)
        prompt = token_ids(question.prompt, self.tokenizer)
        return [Completion(prompt, "positive", ids, "stop", [-0.1, 0.0], signal)]


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "data.jsonl"
    path.write_text(
        "".join(json.dumps({"id": str(i), "text": text, "label": ""}) + "\n" for i, text in enumerate(TEXTS))
    )
    return str(path)


@pytest.fixture
def places(data: str, tmp_path: Path, make_tokenizer: Callable[..., Any]) -> dict[str, Any]:
    """What a recipe needs whose teacher is scripted."""
    make_tokenizer(WORDS).save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "config.json").write_text('{"model_type": "llama"}')
    return {"data.path": data, "teacher.model": str(tmp_path / "teacher"), "capture.top_k": 2}


@pytest.fixture
def teachers(places: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Scripted]:
    """The teachers that a check asks, in this process."""
    tokenizer = AutoTokenizer.from_pretrained(places["teacher.model"])
    found = {name: Scripted(tokenizer) for name in ("teacher", "second")}

    def here(recipe: Recipe, _run: Any, name: str, records: Any, completions: Any) -> Any:
        return job.ask(found[name], recipe, name, records, completions, 3.0)

    monkeypatch.setattr(job, "connected", nullcontext)
    monkeypatch.setattr(job, "_ask_weights", here)
    return found


def test_asks_one_prompt_three_times_and_a_sample_once(
    make_recipe: MakeRecipe, places: dict[str, Any], teachers: dict[str, Scripted]
) -> None:
    check = job.check(make_recipe(places))
    (alone, again, together) = teachers["teacher"].asked
    assert (len(alone[1]), len(again[1]), len(together[1])) == (1, 1, 20)
    # A teacher keeps what it is asked by part: no two may be the same.
    assert len({part for part, _ in teachers["teacher"].asked}) == 3
    assert alone[1][0] == again[1][0]
    assert alone[1][0] in together[1]
    assert len({question.id for question in together[1]}) == 20
    (found,) = check.teachers
    assert (found.requests, found.sampled, found.failed, found.records, found.ready) == (22, 20, 0, 60, 3.0)
    assert found.determinism is not None
    assert found.determinism.same
    again_asked = job.sample_of(make_recipe(places), read_inputs(make_recipe(places)), "teacher")
    assert [record.id for record in again_asked] == [question.id for question in together[1]]
    other = make_recipe({**places, "seed": 1})
    assert {r.id for r in job.sample_of(other, read_inputs(other), "teacher")} != {r.id for r in again_asked}


def test_a_repeated_prompt_without_an_answer(
    make_recipe: MakeRecipe, places: dict[str, Any], teachers: dict[str, Scripted]
) -> None:
    job.check(make_recipe(places))
    teachers["teacher"].fails = {teachers["teacher"].asked[0][1][0].id}
    (found,) = job.check(make_recipe(places)).teachers
    assert found.determinism is None
    assert (found.failed, found.failure) == (1, "it has no wish to")
    teachers["teacher"].fails = {str(i) for i in range(60)}
    with pytest.raises(UserError, match="answered none of 20 prompts: it has no wish to"):
        job.check(make_recipe(places))


def test_scores_the_completions_that_are_there(
    make_recipe: MakeRecipe, places: dict[str, Any], teachers: dict[str, Scripted], data: str
) -> None:
    labels = ["positive", ""]
    lines = [json.dumps({"id": str(i), "text": text, "label": labels[i % 2]}) for i, text in enumerate(TEXTS)]
    Path(data).write_text("\n".join(lines))
    teachers["teacher"]._one = lambda question: [  # type: ignore[method-assign]
        Completion(token_ids(question.prompt, teachers["teacher"].tokenizer), "positive", [7, 0], "stop", None, None)
    ]
    check = job.check(make_recipe({**places, "capture.completions": "gold"}))
    (found,) = check.teachers
    together = teachers["teacher"].asked[-1][1]
    assert {question.completion for question in together} == {" positive"}
    assert found.failed == 20 - len(together) > 0
    assert found.failure == "there is no completion to score"


def test_a_mean_scores_the_first_teachers_completions(
    make_recipe: MakeRecipe, places: dict[str, Any], teachers: dict[str, Scripted]
) -> None:
    members = [{"name": "second", "model": places["teacher.model"]}]
    teachers["teacher"].fails = {"7", "8", "9"}
    check = job.check(make_recipe({**places, "ensemble": {"combine": "mean", "members": members}}))
    first, second = teachers["teacher"].asked[-1][1], teachers["second"].asked[-1][1]
    assert {question.completion for question in first} == {None}
    answered = {question.id for question in first} - teachers["teacher"].fails
    assert {question.id for question in second} == answered
    assert all(question.completion == [7, 0] for question in second)
    assert [found.name for found in check.teachers] == ["teacher", "second"]


def test_a_route_is_asked_about_its_own_rows(
    make_recipe: MakeRecipe, places: dict[str, Any], teachers: dict[str, Scripted], data: str
) -> None:
    rows = [{"id": str(i), "text": text, "label": "", "kind": "b" if i < 15 else "a"} for i, text in enumerate(TEXTS)]
    Path(data).write_text("\n".join(json.dumps(row) for row in rows))
    members = [{"name": "second", "model": places["teacher.model"], "when": {"kind": "b"}}]
    check = job.check(make_recipe({**places, "ensemble": {"combine": "route", "members": members}}))
    assert [found.records for found in check.teachers] == [45, 15]
    assert all(int(question.id) < 15 for question in teachers["second"].asked[-1][1])
    assert len(teachers["second"].asked[-1][1]) == 15
    # All of its rows were asked: nothing is left to estimate.
    tokens = check.teachers[1].tokens
    assert tokens.low == tokens.value == tokens.high


def test_a_filter_that_cannot_work_costs_nothing(
    make_recipe: MakeRecipe, places: dict[str, Any], teachers: dict[str, Scripted], tmp_path: Path
) -> None:
    """It is loaded before a teacher is asked, called where there are completions to score, and on the answers."""
    own = {**places, "curation.filters": {"python": f"{tmp_path}/own.py:keep"}}
    (tmp_path / "own.py").write_text("def keep(record): return record['mood']")
    with pytest.raises(UserError, match="raised KeyError: 'mood'"):
        job.check(make_recipe(own))
    assert teachers["teacher"].asked
    teachers["teacher"].asked.clear()
    labels = [json.dumps({"id": str(i), "text": text, "label": "positive"}) for i, text in enumerate(TEXTS)]
    Path(places["data.path"]).write_text("\n".join(labels))
    with pytest.raises(UserError, match="raised KeyError: 'mood'"):
        job.check(make_recipe({**own, "capture.completions": "gold"}))
    (tmp_path / "own.py").write_text("def keep(): return True")
    with pytest.raises(UserError, match="cannot be loaded"):
        job.check(make_recipe(own))
    assert not teachers["teacher"].asked
    (tmp_path / "own.py").write_text("def keep(record): return record['answer'] == 'positive' and 'dull'")
    assert job.check(make_recipe(own)).teachers[0].sampled == 20


# Endpoints, over HTTP


@dataclass
class Desk:
    """Checks of recipes whose teacher is a scripted endpoint."""

    make_recipe: MakeRecipe
    folder: Path
    data: str

    def recipe(self, endpoint: ScriptedEndpoint, **changes: Any) -> Recipe:
        prices = {"prices__teacher_input": 5.0, "prices__teacher_output": 50.0}
        return self.make_recipe(at(endpoint.url, self.folder, data__path=self.data, **{**prices, **changes}))

    def endpoint(self, **script: Any) -> ScriptedEndpoint:
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        return ScriptedEndpoint(**{"answer": ANSWER, "tokenizer": tokenizer, "key": KEY, **script})


@pytest.fixture
def desk(make_recipe: MakeRecipe, tokenizer_folder: Path, data: str, key: str) -> Desk:
    return Desk(make_recipe, tokenizer_folder, data)


def test_an_endpoint_is_told_its_cost_first_and_asked_no_more(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    def first(_: Call) -> None:
        said.append(capsys.readouterr().out)

    with desk.endpoint(fault=first) as endpoint:
        recipe = desk.recipe(endpoint, capture__n=4, task__sampling__temperature=0.5, capture__budget=1.0)
        check = job.check(recipe)
        assert len(endpoint.calls) == 22
        # One completion tells as much of a prompt as four.
        assert all("n" not in call.body for call in endpoint.calls)
    assert f"asks teacher at {endpoint.url} at most 23 times: at most " in said[0]
    most = float(said[0].rsplit("at most ", 1)[1].split()[0])
    spent = sum(5 * len(call.prompt.encode()) + 50 * 16 for call in endpoint.calls) / 1e6
    assert spent <= most < 3 * spent
    (found,) = check.teachers
    assert (found.requests, found.engine, found.dtype) == (22, f"endpoint {endpoint.url}", "unknown")
    assert not ray.is_initialized()
    # A prompt is read once, and four completions of it are written.
    assert found.tokens.value == pytest.approx(60 * (check.prompts.mean + 4 * found.completion.value))
    assert found.mass is not None


def test_the_endpoints_count_is_what_is_paid(desk: Desk) -> None:
    """It has another tokenizer, one of words; the student's stands in for it only as far as it must."""
    with desk.endpoint(tokenizer=None) as endpoint:
        check = job.check(desk.recipe(endpoint, **TEXT_MODE))
    (found,) = check.teachers
    words = 3 + sum(len(text.split()) for text in TEXTS) / len(TEXTS) - 1
    # The student's tokens tell the lengths apart, and the endpoint's count how many there are in all.
    assert found.completion.value == pytest.approx(1, rel=0.02)
    assert found.tokens.low is not None
    assert found.tokens.high is not None
    assert found.tokens.value == pytest.approx(60 * (words + 1), rel=0.1)
    assert found.mass is None
    assert check.payback is not None
    assert check.payback.teacher == pytest.approx(5 * found.prompt + 50 * found.completion.value)
    assert found.prompt == pytest.approx(words, rel=0.1)


def test_a_batch_is_checked_at_once_and_priced_as_a_batch(desk: Desk) -> None:
    with desk.endpoint(tokenizer=None) as endpoint:
        (at_once,) = job.check(desk.recipe(endpoint, **TEXT_MODE)).teachers
        (batch,) = job.check(desk.recipe(endpoint, **TEXT_MODE, teacher__batch=True)).teachers
        assert not endpoint.batches
    assert batch.cost.value == pytest.approx(at_once.cost.value / 2)


def test_an_endpoint_that_is_busy_is_asked_once(desk: Desk) -> None:
    """A sample that is told `429` now and then is one with failures; nothing is sent again."""

    def fault(call: Call) -> Reply | None:
        return error(429, f"slow down, {KEY}") if call.prompt.count("good") == 2 else None

    with desk.endpoint(fault=fault) as endpoint:
        check = job.check(desk.recipe(endpoint))
        assert len(endpoint.calls) <= job.MOST_REQUESTS
    (found,) = check.teachers
    assert 0 < found.failed < 20
    warning = next(warning for warning in check.warnings if warning.name == "failed-answers")
    assert "429" in warning.text
    assert KEY not in check.model_dump_json()


@pytest.mark.parametrize(
    ("script", "changes", "sentence"),
    [
        ({"key": "another"}, {}, "refuses the key in TEACHER_KEY (401)"),
        ({"model": "another"}, {}, "knows no model 'teacher'"),
        ({"fault": lambda _: error(503)}, {}, "went without an answer"),
        ({"fault": lambda _: Reply(body=b"{")}, {}, "answered none of 20 prompts: the endpoint's answer is not JSON"),
        ({"tokenizer": None}, {}, "does not use the tokenizer"),
        ({}, {"capture__budget": 1e-6}, "raise `capture.budget`"),
    ],
)
def test_endpoints_that_cannot_work(desk: Desk, script: Any, changes: dict[str, Any], sentence: str) -> None:
    with desk.endpoint(**script) as endpoint, pytest.raises(UserError) as raised:
        job.check(desk.recipe(endpoint, **changes))
    assert sentence in str(raised.value)
    assert KEY not in str(raised.value)
    assert len(endpoint.calls) <= job.MOST_REQUESTS


def test_an_endpoint_without_logprobs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptedEndpoint, "_logprobs", lambda *_: None)
    with desk.endpoint() as endpoint, pytest.raises(UserError) as raised:
        job.check(desk.recipe(endpoint))
    assert "has logprobs that can be used, so there is no signal: set `capture.mode: text`" in str(raised.value)
    # Asked once, and not twenty times more.
    assert len(endpoint.calls) == 1


def test_a_missing_key(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_KEY")
    with desk.endpoint() as endpoint, pytest.raises(UserError, match="the environment variable TEACHER_KEY holds no"):
        job.check(desk.recipe(endpoint))
    assert not endpoint.calls


def run(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name("stillhouse")
    return subprocess.run([script, "check", str(path), *words], capture_output=True, text=True, timeout=300)


def here(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> subprocess.CompletedProcess[str]:
    """The job in this process, which has its libraries loaded."""
    monkeypatch.setattr(sys, "argv", ["check", "--recipe", str(path)])
    status: Any = 0
    try:
        job.main()
    except SystemExit as ended:
        status = ended.code
    return subprocess.CompletedProcess([], status, *capsys.readouterr())


def test_the_command(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    with desk.endpoint() as endpoint:
        path.write_text(dump_recipe(desk.recipe(endpoint)))
        told, read = here(path, monkeypatch, capsys), run(path, "--json")
    assert (told.returncode, read.returncode) == (0, 0), told.stderr + read.stderr
    assert "warning few-examples: " in told.stdout
    assert "20 of a sample of 20 answered" in told.stdout
    (line,) = read.stdout.splitlines()
    assert Check.model_validate_json(line).teachers[0].requests == 22
    assert "at most 23 times" in read.stderr
    assert KEY not in told.stdout + told.stderr + read.stdout + read.stderr
    with desk.endpoint(key="another"):
        gone = here(path, monkeypatch, capsys)  # the first endpoint's address, where nobody is any more
    assert gone.returncode == 2
    assert gone.stderr.startswith(f"error: the endpoint {endpoint.url} cannot be reached in one attempt: ")
    assert "Traceback" not in gone.stderr


def test_an_interrupted_check(
    tmp_path: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Recipe) -> Check:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("went on")

    (tmp_path / "recipe.yaml").write_text(dump_recipe(make_recipe()))
    monkeypatch.setattr(job, "check", interrupted)
    ended = here(tmp_path / "recipe.yaml", monkeypatch, capsys)
    assert ended.returncode == 130
    assert ended.stderr == "stopped: nothing is kept of a check\n"


# The real thing


@pytest.mark.slow
@pytest.mark.xdist_group("engines")
def test_the_example(tmp_path: Path) -> None:
    """SmolLM2 through vLLM in an actor of Ray: what is measured is what the recipe's own task implies."""
    done = run(EXAMPLE, "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    check = Check.model_validate_json(line)
    (found,) = check.teachers
    assert (check.records, check.labelled, found.failed, found.truncated, found.misread) == (4000, 4000, 0, 0, 0)
    assert found.engine.startswith("vllm ")
    assert found.dtype == "float32"
    assert found.determinism is not None
    assert found.determinism.same
    assert found.determinism.logprob_difference is not None
    assert found.determinism.logprob_difference < 1e-3
    # Normalised over the two choices, and every answer is one of them with the end of the sequence.
    assert found.mass is not None
    assert found.mass.mean == pytest.approx(1, abs=1e-4)
    assert (found.contract.value, found.completion.value) == (1.0, 2.0)
    assert found.right is not None
    assert found.right.low > 0.3
    # `make demo` captures these records in 133,466 tokens.
    assert found.tokens.low is not None
    assert found.tokens.high is not None
    assert found.tokens.low < 133_466 < found.tokens.high
    assert {warning.name for warning in check.warnings} == {"dequantised", "unknown-volume"}
