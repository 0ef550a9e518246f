"""The evaluation of a student that lies at an endpoint, asked over real HTTP."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets_made import commit_dataset, commit_remote_student, sentiment
from endpoint_parts import KEY, MakeRecipe, key, quick, tokenizer_folder
from scripted_endpoint import Call, Reply, ScriptedEndpoint, error
from scripted_tuning import BASE, ScriptedTuning
from transformers import AutoTokenizer

from ray_jobs.evaluate import evaluate
from stillhouse.errors import UserError
from stillhouse.policy import Policy
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.signal.alignment import tokenizer_hash
from stillhouse.signal.schema import read_table

__all__ = ["key", "quick", "tokenizer_folder"]

MODEL = f"ft:{BASE}:org:films:0"


def answering(prompt: str) -> str:
    """Right, but for the odd films; and beside the contract for the strange ones."""
    if "strange" in prompt:
        return "Perhaps positive."
    return "positive" if ("good" in prompt) != ("odd" in prompt) else "negative"


def confidence(prompt: str) -> float:
    if "strange" in prompt:
        return 0.99
    return 0.3 if "odd" in prompt else 0.95


def text(i: int) -> str:
    kind = "strange " if i % 20 == 3 else "odd " if i % 10 == 7 else ""
    return f"a {kind}{'good' if i % 3 else 'dull'} film, {i}"


class Evaluating:
    """`evaluate` on one run."""

    def __init__(self, make_recipe: MakeRecipe, folder: Path, tmp_path: Path) -> None:
        self._make, self._folder = make_recipe, folder
        self.run = Run.open(str(tmp_path / "run"))

    def endpoint(self, **script: Any) -> ScriptedTuning:
        tokenizer = AutoTokenizer.from_pretrained(self._folder)
        defaults: dict[str, Any] = {"tokenizer": tokenizer, "key": KEY, "model": MODEL, "confidence": confidence}
        return ScriptedTuning(answering, **{**defaults, **script})

    def recipe(self, url: str, **changes: Any) -> Recipe:
        student = {"model": BASE, "url": url, "api_key_env": "TEACHER_KEY", "max_attempts": 2, "timeout_s": 30.0}
        keys = {"teacher.model": str(self._folder), "student.openai": student, "evaluation.alpha": 0.05}
        return self._make({**keys, **{name.replace("__", "."): value for name, value in changes.items()}})

    def __call__(self, endpoint: ScriptedTuning, **changes: Any) -> dict[str, Any]:
        recipe = self.recipe(endpoint.url, **changes)
        splits = {"train": range(300, 500), "calibration": range(160), "test": range(200, 280)}
        commit_dataset(recipe, self.run, {name: sentiment([text(i) for i in of]) for name, of in splits.items()})
        commit_remote_student(recipe, self.run, MODEL)
        evaluate(recipe, self.run)
        found: dict[str, Any] = json.loads(self.run.storage.read("evaluation/report.json"))
        return found


@pytest.fixture
def evaluating(make_recipe: MakeRecipe, tokenizer_folder: Path, tmp_path: Path, key: str, quick: None) -> Evaluating:
    return Evaluating(make_recipe, tokenizer_folder, tmp_path)


def test_a_student_at_an_endpoint_is_evaluated_like_any_other(evaluating: Evaluating, tokenizer_folder: Path) -> None:
    with evaluating.endpoint() as endpoint:
        report = evaluating(endpoint)
    asked = {"role": "user", "content": f"Review: {text(0)}\nSentiment:"}
    (body,) = [call.body for call in endpoint.calls if call.body["messages"] == [asked]]
    assert (body["model"], body["logprobs"], body["temperature"], body["max_tokens"]) == (MODEL, True, 0.0, 4)
    assert set(body) == {"model", "messages", "logprobs", "temperature", "max_tokens"}

    key = "evaluation/predictions.parquet"
    rows = read_table(evaluating.run.storage.read(key), name=key).to_pylist()
    assert len(rows) == 240
    for row in rows:
        strange, odd = "strange" in row["text"], "odd" in row["text"]
        assert (row["student"] is None) is strange
        expected = 0.0 if strange else 0.3 if odd else 0.95
        assert row["confidence"] == pytest.approx(expected, abs=1e-9)
        assert (row["student"] == row["teacher"]) is not (strange or odd)
        assert row["student_completion_tokens"] > 1
        assert sum(row["token_logprobs"]) == pytest.approx(math.log(confidence(row["text"])), abs=1e-6)

    policy = Policy.load(evaluating.run.storage.read("evaluation/policy.json"))
    assert policy.threshold is not None
    assert 0.3 < policy.threshold <= 0.95
    assert policy.student_model == MODEL
    manifest = evaluating.run.manifest("student")
    assert manifest is not None
    assert policy.student_hash == manifest.content_hash()
    # The teacher beside it is vLLM's, and is constrained to the choices in its own tokens.
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    assert policy.tokenizer_hash == tokenizer_hash(tokenizer)
    assert policy.sampling["structured_outputs"] == {"choice": [" positive", " negative"]}
    assert set(tokenizer(" positive")["input_ids"]) <= set(policy.sampling["allowed_token_ids"])  # type: ignore[arg-type]
    assert report["models"]["student"] == f"{BASE}, fine-tuned through its API"
    assert any("12 questions to the student were answered outside" in note for note in report["notes"])


def test_without_a_promise_no_policy_is_released(evaluating: Evaluating) -> None:
    with evaluating.endpoint() as endpoint:
        report = evaluating(endpoint, evaluation__alpha=0.001)
    policy = Policy.load(evaluating.run.storage.read("evaluation/policy.json"))
    assert (policy.released, policy.threshold, policy.coverage) == (False, None, None)
    assert report["released"] is False
    assert "that takes 2995 calibration records or more, and there are 160" in report["release"]["promise"]
    assert "The nearest that these records would have allowed is" in report["release"]["promise"]


def test_a_score_is_fitted_and_told(evaluating: Evaluating) -> None:
    with evaluating.endpoint() as endpoint:
        report = evaluating(endpoint, evaluation__score="isotonic", evaluation__alpha=0.1)
    policy = Policy.load(evaluating.run.storage.read("evaluation/policy.json"))
    assert (policy.score.name, policy.n_calibration) == ("isotonic", 107)
    assert policy.released
    release = report["release"]
    assert release["selection"]["n_fit"] == 53
    assert release["calibration_error_after"] < release["calibration_error_before"]
    key = "evaluation/predictions.parquet"
    rows = read_table(evaluating.run.storage.read(key), name=key).to_pylist()
    assert {row["confidence"] for row in rows if "strange" in row["text"]} == {0.0}
    alone = [row for row in rows if row["split"] == "test" and row["confidence"] >= (policy.threshold or 2)]
    assert release["fallback_rate"]["value"] == pytest.approx(1 - len(alone) / 80)
    assert not any("odd" in row["text"] for row in alone)


def test_the_report_has_what_only_the_job_knows(evaluating: Evaluating) -> None:
    """Baselines of the train split, the requests' own times, and the drift baseline with its embeddings."""
    with evaluating.endpoint() as endpoint:
        report = evaluating(endpoint)
    baselines = {baseline["who"]: baseline for baseline in report["side_by_side"]["baselines"]}
    assert set(baselines) == {"majority", "tfidf", "tfidf_gold"}
    assert baselines["tfidf"]["train_n"] == 200
    speed = report["speed"]
    assert (speed["where"], speed["requests"]) == (f"{MODEL} at {endpoint.url}", 240)
    assert 0 < speed["p50_s"] <= speed["p95_s"]
    assert speed["tokens_per_s"] is speed["batch_tokens_per_s"] is None  # they were asked side by side
    key = "evaluation/drift_baseline.parquet"
    table = read_table(evaluating.run.storage.read(key), name=key)
    assert table.num_rows == 80
    vectors = np.array(table["embedding"].to_pylist(), dtype=np.float64)
    assert vectors.shape == (80, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(80), abs=2e-3)
    assert np.array(report["drift"]["embedded"]["mean"]) == pytest.approx(vectors.mean(axis=0), abs=1e-3)
    assert report["drift"]["fallback_rate"] == report["release"]["fallback_rate"]
    manifest = evaluating.run.manifest("evaluation")
    assert manifest is not None
    assert {entry.path for entry in manifest.files} == {
        "drift_baseline.parquet",
        "policy.json",
        "predictions.parquet",
        "report.html",
        "report.json",
    }


def test_test_records_that_were_trained_on_are_refused(evaluating: Evaluating) -> None:
    """Before anything is asked; case and spacing do not matter."""
    with evaluating.endpoint() as endpoint:
        recipe = evaluating.recipe(endpoint.url)
        texts = {"train": [f" {text(201).upper()}", text(500)], "calibration": [text(i) for i in range(9)]}
        commit_dataset(
            recipe,
            evaluating.run,
            {name: sentiment(of) for name, of in {**texts, "test": [text(200), text(201)]}.items()},
        )
        commit_remote_student(recipe, evaluating.run, MODEL)
        with pytest.raises(UserError, match=r"^1 of 2 test records was trained on \(r1\), so that nothing measured"):
            evaluate(recipe, evaluating.run)
    assert endpoint.calls == []


def test_a_judge_compares_the_answers(evaluating: Evaluating) -> None:
    """It prefers what is positive, wherever that stands."""
    seen = []

    def verdict(prompt: str) -> str:
        seen.append(prompt)
        first, second = prompt.index("Answer A:"), prompt.index("Answer B:")
        return "A" if "positive" in prompt[first:second] else "B"

    with evaluating.endpoint() as endpoint, ScriptedEndpoint(verdict, model="judge") as judge:
        section = {"url": judge.url, "model": "judge", "samples": 60}
        report = evaluating(endpoint, evaluation__judge=section)
    judged = report["judgement"]
    rows = read_table(evaluating.run.storage.read("evaluation/predictions.parquet"), name="p").to_pylist()
    differing = [r for r in rows if r["split"] == "test" and r["student"] is not None and r["student"] != r["teacher"]]
    assert judged["judge"] == f"judge at {judge.url}"
    assert judged["n"] == 60
    assert len(seen) == 2 * (60 - judged["same"])
    assert 0 < judged["win"]["value"] + judged["loss"]["value"] <= len(differing) / 60
    assert "Review: a" in seen[0]
    assert "The judge" in evaluating.run.storage.read("evaluation/report.html").decode()


def test_prompts_that_the_endpoint_refuses_are_the_teachers(evaluating: Evaluating) -> None:
    def fault(call: Call) -> Reply | None:
        return error(400, "content policy", code="content_policy_violation") if ", 21" in call.prompt else None

    with evaluating.endpoint(fault=fault) as endpoint:
        report = evaluating(endpoint)
    assert any("11 questions to the student were refused by the endpoint" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ({"confidence": None}, rf"no answer of {MODEL} at .* has logprobs, so that none has a confidence"),
        ({"refuse": ("logprobs",)}, rf"{MODEL} at .* tells no logprobs"),
        ({"refuse": ("temperature",)}, "does not take the parameter `temperature`"),
        ({"model": "ft:other"}, rf"knows no model '{MODEL}'"),
        ({"key": "another"}, r"refuses the key in TEACHER_KEY"),
        ({"fault": lambda _: error(500, "on fire")}, r"answered nothing: .* in 2 attempts: 500: on fire"),
        ({"fault": lambda _: error(400, "no")}, r"answered nothing: the endpoint refused the request \(400: no\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_evaluated_is_one_sentence(
    evaluating: Evaluating, script: dict[str, Any], sentence: str
) -> None:
    with evaluating.endpoint(**script) as endpoint, pytest.raises(UserError, match=sentence) as told:
        evaluating(endpoint)
    assert "\n" not in str(told.value)
    assert evaluating.run.manifest("evaluation") is None


def test_too_many_questions_without_an_answer(evaluating: Evaluating) -> None:
    def fault(call: Call) -> Reply | None:
        return error(503) if "dull" in call.prompt else None

    with (
        evaluating.endpoint(fault=fault) as endpoint,
        pytest.raises(UserError, match=r"81 of 240 questions went without"),
    ):
        evaluating(endpoint)


def test_newer_models_take_the_newer_name_of_the_limit(evaluating: Evaluating) -> None:
    with evaluating.endpoint(refuse=("max_tokens",)) as endpoint:
        evaluating(endpoint)
    assert {name for call in endpoint.calls for name in call.body if "max" in name} == {"max_completion_tokens"}


def test_json_is_held_to_its_schema(evaluating: Evaluating) -> None:
    schema = {
        "type": "object",
        "properties": {"label": {"enum": ["positive", "negative"]}},
        "required": ["label"],
        "additionalProperties": False,
    }
    with evaluating.endpoint() as endpoint:
        recipe = evaluating.recipe(endpoint.url, task__kind="json", task__choices=[], task__json_schema=schema)
        from ray_jobs.remote_answers import remote_predictions
        from stillhouse.endpoint.student import RemoteStudent

        endpoint.answer = lambda prompt: json.dumps({"label": answering(prompt)})
        row = {**sentiment([text(1)])[0], "answer": '{"label":"positive"}'}
        student = RemoteStudent(model=MODEL, url=endpoint.url, job="ftjob-0", openai={})
        predictions, *_ = remote_predictions(recipe, student, {"test": [row]})
    (found,) = predictions["test"]
    assert found.student == found.teacher == '{"label":"positive"}'
    assert endpoint.calls[0].body["response_format"]["json_schema"] == {
        "name": "answer", "schema": schema, "strict": True,
    }  # fmt: skip


def test_weights_are_no_api_student_and_the_other_way_round(evaluating: Evaluating) -> None:
    recipe = evaluating.recipe("http://127.0.0.1:9/v1")
    commit_dataset(recipe, evaluating.run, {"calibration": sentiment([text(1)]), "test": sentiment([text(2)])})
    evaluating.run.storage.write("student/config.json", b"{}")
    evaluating.run.commit("student", recipe=recipe, inputs={}, began=0.0)
    with pytest.raises(UserError, match=r"was trained here, and the recipe's is `student\.openai`: train again"):
        evaluate(recipe, evaluating.run)
    commit_remote_student(recipe, evaluating.run, MODEL)
    with pytest.raises(UserError, match=rf"is {MODEL} at .*, and the recipe has no `student\.openai`: train again"):
        evaluate(evaluating._make({"teacher.model": str(evaluating._folder)}), evaluating.run)
    moved = evaluating.recipe("http://127.0.0.1:10/v1")
    with pytest.raises(UserError, match=r"is at http://127\.0\.0\.1:9/v1, and `student\.openai\.url` says"):
        evaluate(moved, evaluating.run)
