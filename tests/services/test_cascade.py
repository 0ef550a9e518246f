"""The decision, with engines that say what the test tells them."""

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest
from recipes import REVIEWS, policy
from scripted import Scripted, says, sure, unsure

from services.gateway.cascade import Cascade, Decision, NobodyAnswers
from services.gateway.engine import EngineFailed, EngineRefused, Generation, Question, Token, Usage
from stillhouse.confidence import FeatureScore
from stillhouse.task import Prompt

QUESTION = Question(Prompt(text="Review: a joy\nSentiment:"))


def decide(student: object, teacher: object, *, threshold: float | None = 0.5, **options: Any) -> Decision:
    cascade = Cascade(_engine(student), _engine(teacher), task=REVIEWS, policy=policy(threshold), timeout_s=0.05)
    return asyncio.run(cascade.decide(QUESTION, **options))


def _engine(reply: object) -> Scripted:
    return reply if isinstance(reply, Scripted) else Scripted(reply)


def test_a_sure_student_answers_alone() -> None:
    teacher = Scripted(sure(" negative"))
    decision = decide(sure(" positive"), teacher)
    assert decision.route == "student"
    assert decision.generation.text == " positive"
    assert decision.confidence == pytest.approx(0.9)
    assert decision.usage == Usage(10, 2)
    assert teacher.questions == []


def test_below_the_threshold_the_teacher_answers_from_scratch() -> None:
    teacher = Scripted(sure(" negative"))
    decision = decide(unsure(" positive"), teacher)
    assert decision.route == "teacher"
    assert decision.generation.text == " negative"
    assert decision.confidence == pytest.approx(0.3)
    assert decision.usage == Usage(20, 4), "what both spent"
    assert teacher.questions == [QUESTION]


def test_a_confidence_at_the_threshold_is_enough() -> None:
    half = says(" positive", math.log(0.5))
    assert decide(half, sure(" negative"), threshold=math.exp(math.log(0.5))).route == "student"


def test_without_a_threshold_the_student_never_answers_alone() -> None:
    assert decide(says(" positive", 0.0), sure(" negative"), threshold=None).route == "teacher"


def test_an_answer_outside_the_contract_is_not_confident() -> None:
    decision = decide(sure(" posit"), sure(" negative"))
    assert decision.route == "teacher"
    assert "contract" in decision.why


@pytest.mark.parametrize(
    "logprobs",
    [(), (math.nan, 0.0), (0.5, 0.0), (None, 0.0)],
    ids=["missing", "NaN", "above zero", "null"],
)
def test_broken_logprobs_go_to_the_teacher(logprobs: tuple[float, ...]) -> None:
    decision = decide(says(" positive", *logprobs), sure(" negative"), threshold=0.0)
    assert decision.route == "teacher"
    assert decision.confidence is None


def test_logprobs_of_some_tokens_only_go_to_the_teacher() -> None:
    whole = sure(" positive")
    partial = type(whole)(whole.text, whole.finish_reason, whole.tokens[:1], whole.usage)
    assert decide(partial, sure(" negative"), threshold=0.0).route == "teacher"


@pytest.mark.parametrize("trouble", [EngineFailed("gone"), EngineRefused("too long"), Scripted.HANGS])
def test_without_its_teacher_the_answer_is_degraded(trouble: object, caplog: pytest.LogCaptureFixture) -> None:
    teacher = Scripted(trouble)
    decision = decide(unsure(" positive"), teacher)
    assert decision.route == "degraded"
    assert decision.generation.text == " positive"
    assert decision.confidence == pytest.approx(0.3)
    assert decision.usage == Usage(10, 2)
    assert "degraded" in caplog.text
    assert teacher.cancelled == (1 if trouble is Scripted.HANGS else 0), "a teacher that is too slow is stopped"


@pytest.mark.parametrize("trouble", [EngineFailed("gone"), EngineRefused("too long"), Scripted.HANGS])
def test_without_its_student_the_teacher_answers(trouble: object) -> None:
    decision = decide(trouble, sure(" negative"))
    assert decision.route == "teacher"
    assert decision.confidence is None
    assert decision.usage == Usage(10, 2)


@pytest.mark.parametrize("student", [EngineFailed("gone"), Scripted.HANGS])
def test_both_gone(student: object) -> None:
    with pytest.raises(NobodyAnswers, match=r"student|gone"):
        decide(student, EngineFailed("gone too"))


def test_what_both_refuse_is_the_clients_to_mend() -> None:
    with pytest.raises(EngineRefused, match="the teacher says so"):
        decide(EngineRefused("too long"), EngineRefused("the teacher says so"))


def test_the_student_by_name_never_asks_the_teacher() -> None:
    teacher = Scripted(sure(" negative"))
    decision = decide(unsure(" positive"), teacher, only="student")
    assert (decision.route, decision.generation.text) == ("student", " positive")
    assert decision.confidence == pytest.approx(0.3)
    with pytest.raises(NobodyAnswers):
        decide(EngineFailed("gone"), teacher, only="student")
    assert teacher.questions == []


def test_the_teacher_by_name_never_asks_the_student() -> None:
    student = Scripted(sure(" positive"))
    decision = decide(student, unsure(" negative"), only="teacher")
    assert (decision.route, decision.generation.text, decision.confidence) == ("teacher", " negative", None)
    with pytest.raises(NobodyAnswers):
        decide(student, Scripted.HANGS, only="teacher")
    assert student.questions == []


def ranked(*positions: list[float]) -> Generation:
    """An answer of the likeliest tokens, by the probabilities at each position."""
    tokens = tuple(
        Token(f"t{i}", math.log(each[0]), tuple((f"a{j}", math.log(p)) for j, p in enumerate(each)))
        for i, each in enumerate(positions)
    )
    return Generation(" positive", "stop", tokens, Usage(10, len(tokens)))


def by_margin(student: Generation, question: Question = QUESTION) -> tuple[Decision, Scripted]:
    asked = Scripted(student)
    found = policy(0.5, score=FeatureScore(feature="margin"), alternatives=2)
    cascade = Cascade(asked, Scripted(sure(" negative")), task=REVIEWS, policy=found, timeout_s=0.05)
    return asyncio.run(cascade.decide(question)), asked


def test_the_student_is_asked_for_what_its_score_is_made_from() -> None:
    decision, student = by_margin(ranked([0.8, 0.15, 0.05], [1.0]))
    assert student.questions == [replace(QUESTION, top_logprobs=2)]
    assert (decision.route, decision.confidence) == ("student", pytest.approx(0.65))
    assert by_margin(ranked([0.7, 0.3], [1.0]))[0].route == "teacher"


def test_a_client_that_asks_for_more_changes_no_confidence() -> None:
    decision, student = by_margin(ranked([0.8, 0.15, 0.05], [1.0]), replace(QUESTION, top_logprobs=5))
    assert student.questions[0].top_logprobs == 5
    assert decision.confidence == pytest.approx(0.65)


def test_without_the_alternatives_that_its_score_needs_the_teacher_answers() -> None:
    told = ranked([0.8, 0.2], [1.0])
    silent = replace(told, tokens=tuple(replace(token, top=()) for token in told.tokens))
    decision, _ = by_margin(silent)
    assert (decision.route, decision.confidence) == ("teacher", None)
