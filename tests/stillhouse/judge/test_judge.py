"""The judge, over real HTTP: both orders, what is no verdict, and what is not asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_endpoint import Call, Reply, ScriptedEndpoint, error

from stillhouse import lineage
from stillhouse.endpoint import client
from stillhouse.errors import UserError
from stillhouse.judge.ask import judge, preference
from stillhouse.judge.judgement import outcome, swayed
from stillhouse.metrics import Prediction
from stillhouse.recipe import Judge, Recipe
from stillhouse.run import Run


def predict(i: int, student: str | None, teacher: str | None) -> Prediction:
    return Prediction(
        id=f"r{i}",
        text=f"text {i}",
        gold=None,
        teacher=teacher,
        student=student,
        confidence=0.5,
        teacher_prompt_tokens=1,
        teacher_completion_tokens=1,
        student_prompt_tokens=1,
        student_completion_tokens=1,
    )


def section(url: str, **changes: Any) -> Judge:
    return Judge.model_validate({"url": url, "model": "judge", "max_attempts": 1, **changes})


def answers_in(prompt: str) -> tuple[str, str]:
    (message,) = json.loads(prompt)
    said: str = message["content"]
    first = said.partition("Answer A:\n")[2].partition("\n\nAnswer B:")[0]
    return first, said.partition("Answer B:\n")[2].partition("\n\nReply")[0]


def longer(prompt: str) -> str:
    first, second = answers_in(prompt)
    return "A" if len(first) > len(second) else "B" if len(second) > len(first) else "tie"


PAIRS = [
    predict(0, "long answer", "short"),  # a win
    predict(1, "long answer", "none"),  # a win
    predict(2, "no", "a long answer"),  # a loss
    predict(3, "same!", "other"),  # as long: a tie
    predict(4, "same", "same"),  # not asked
    predict(5, None, "teacher"),  # nothing to compare
    predict(6, "student", None),
]
QUESTIONS = {p.id: f"Question {p.id}?" for p in PAIRS}


@pytest.fixture(autouse=True)
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_BACKOFF_S", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def test_every_pair_is_shown_in_both_orders() -> None:
    with ScriptedEndpoint(longer, model="judge") as endpoint:
        found = judge(section(endpoint.url), PAIRS, QUESTIONS, seed=0)
    assert found is not None
    assert (found.n, found.win.value, found.tie.value, found.loss.value) == (5, 0.4, 0.4, 0.2)
    assert found.net.value == pytest.approx(0.2)
    assert (found.same, found.swayed, found.unparsable, found.unanswered) == (1, 0, 0, 0)
    shown = [answers_in(prompt) for prompt in endpoint.prompts()]
    assert len(shown) == 8
    assert {(a, b) for a, b in shown} == {(b, a) for a, b in shown}
    assert sum("Question r2?" in prompt for prompt in endpoint.prompts()) == 2
    assert set(endpoint.calls[0].body) == {"model", "messages", "temperature"}


def test_a_liking_for_a_place_is_a_tie() -> None:
    with ScriptedEndpoint(lambda _: "A", model="judge") as endpoint:
        found = judge(section(endpoint.url), PAIRS, QUESTIONS, seed=0)
    assert found is not None
    assert (found.win.value, found.tie.value, found.loss.value, found.swayed) == (0, 1, 0, 4)


def test_what_is_no_verdict_is_counted_and_left_out() -> None:
    def strange(prompt: str) -> str:
        return "Both have their merits." if "Question r0?" in prompt else longer(prompt)

    def fault(call: Call) -> Reply | None:
        return error(400, "no") if "Question r2?" in call.prompt else None

    with ScriptedEndpoint(strange, model="judge", fault=fault) as endpoint:
        found = judge(section(endpoint.url), PAIRS, QUESTIONS, seed=0)
    assert found is not None
    assert (found.n, found.unparsable, found.unanswered) == (3, 1, 1)


def test_no_verdict_at_all_is_one_sentence() -> None:
    with (
        ScriptedEndpoint(lambda _: "Hm.", model="judge") as endpoint,
        pytest.raises(UserError, match=r"gave no verdict on any of 4 records: 'Hm\.' is not A, B or tie"),
    ):
        judge(section(endpoint.url), PAIRS, QUESTIONS, seed=0)


def test_a_judge_that_takes_no_temperature_is_asked_without() -> None:
    def fault(call: Call) -> Reply | None:
        refused = "temperature" in call.body
        return error(400, "no", param="temperature", code="unsupported_value") if refused else None

    with ScriptedEndpoint(longer, model="judge", fault=fault) as endpoint:
        found = judge(section(endpoint.url), PAIRS, QUESTIONS, seed=0)
    assert found is not None
    assert found.unanswered == 0


def test_samples_are_drawn_with_the_seed() -> None:
    many = [predict(i, f"student {i}", f"teacher {i}") for i in range(40)]
    questions = {p.id: p.id for p in many}
    asked = []
    for seed in (1, 1, 2):
        with ScriptedEndpoint(lambda _: "tie", model="judge") as endpoint:
            found = judge(section(endpoint.url, samples=5), many, questions, seed=seed)
        assert found is not None
        assert found.n == 5
        asked.append(sorted(endpoint.prompts()))
    assert asked[0] == asked[1] != asked[2]


def test_nothing_to_judge() -> None:
    assert judge(section("http://127.0.0.1:9/v1"), PAIRS[5:], QUESTIONS, seed=0) is None


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("A", "first"), ("b.", "second"), ("**Tie**", "tie"), ("Answer A", "first"), ("Verdict: B", "second"),
        ("A is better since …\n\nA", "first"), ("[[B]]", "second"), ("", None), ("AB", None), ("A or B", None),
        ("A\nbut B is good too", None),
    ],
)  # fmt: skip
def test_verdicts(reply: str, expected: str | None) -> None:
    assert preference(reply) == expected


def test_outcomes_of_two_orders() -> None:
    assert outcome("first", "second") == "win"
    assert outcome("second", "first") == "loss"
    for pair in (("first", "first"), ("tie", "first"), ("tie", "tie"), ("second", "second")):
        assert outcome(*pair) == "tie"  # type: ignore[arg-type]
    assert [swayed(*pair) for pair in (("first", "first"), ("tie", "tie"), ("first", "second"))] == [True, False, False]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"evaluation.judge": {"url": "https://api.x/v1/", "model": "big"}}, "is the teacher big itself"),
        ({"evaluation.judge": {"url": "https://api.x/v1", "model": "j", "prompt": "{first}"}}, "needs `{first}` and"),
        ({"evaluation.judge": {"url": "https://api.x/v1", "model": "j", "prompt": "{first"}}, "is malformed"),
        (
            {"evaluation.judge": {"url": "https://api.x/v1", "model": "j", "prompt": "{first} {second} {gold}"}},
            "no other braces",
        ),
    ],
)
def test_a_recipe_with_a_judge(make_recipe: Callable[..., Recipe], changes: dict[str, Any], sentence: str) -> None:
    teacher = {
        "teacher.url": "https://api.x/v1",
        "teacher.model": "big",
        "capture.mode": "text",
        "student.kd_weight": 0,
        "student.init": {"kind": "pretrained", "model": "small"},
    }
    with pytest.raises(UserError, match=sentence):
        make_recipe({**teacher, **changes})
    make_recipe({**teacher, "evaluation.judge": {"url": "https://api.x/v1", "model": "another"}})


def test_how_the_judge_is_asked_makes_no_evaluation_stale(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    def inputs(**changes: Any) -> str:
        section = {"url": "https://api.x/v1", "model": "j", **changes}
        return lineage.inputs("evaluation", make_recipe({"evaluation.judge": section}), Run.open(str(tmp_path)))[
            "evaluation"
        ]

    assert inputs() == inputs(max_concurrency=2, timeout_s=5, max_attempts=1, api_key_env="KEY")
    assert len({inputs(), inputs(model="k"), inputs(samples=7), inputs(prompt="{first} {second}")}) == 4
