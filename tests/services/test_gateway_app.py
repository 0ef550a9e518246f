"""The routes over HTTP, with engines that say what the test tells them."""

import json
import math
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from recipes import CHAT_REVIEWS, REVIEWS, policy
from scripted import Scripted, says, sure, unsure

from services.gateway.app import make_app
from services.gateway.cascade import Cascade
from services.gateway.engine import EngineFailed, EngineRefused
from services.gateway.protocol import MAX_BODY_BYTES
from stillhouse.recipe import Task

PROMPT = "Review: a joy\nSentiment:"
MESSAGES = [{"role": "user", "content": "a joy"}]


class Gateway:
    """The endpoint over two scripted engines."""

    def __init__(self, student: object, teacher: object, *, task: Task = REVIEWS) -> None:
        self.student = student if isinstance(student, Scripted) else Scripted(student)
        self.teacher = teacher if isinstance(teacher, Scripted) else Scripted(teacher)
        found = policy(0.5)
        cascade = Cascade(self.student, self.teacher, task=task, policy=found, timeout_s=5)
        self.http = TestClient(make_app("reviews", task, cascade, found.sampling), raise_server_exceptions=False)

    def chat(self, **body: Any) -> Response:
        return self.http.post("/v1/chat/completions", json={"model": "reviews", "messages": MESSAGES, **body})

    def complete(self, **body: Any) -> Response:
        return self.http.post("/v1/completions", json={"model": "reviews", "prompt": PROMPT, **body})


@pytest.fixture
def confident() -> Gateway:
    return Gateway(sure(" positive"), sure(" negative"))


@pytest.fixture
def doubtful() -> Gateway:
    return Gateway(unsure(" positive"), sure(" negative"))


def events(response: Response) -> list[dict[str, Any]]:
    """The data of a stream, which must end with [DONE]."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_chat_through_the_student(confident: Gateway) -> None:
    response = confident.chat()
    assert response.status_code == 200
    assert response.headers["x-stillhouse-route"] == "student"
    assert float(response.headers["x-stillhouse-confidence"]) == pytest.approx(0.9)
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "reviews-student"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "positive", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}


def test_chat_through_the_teacher(doubtful: Gateway) -> None:
    response = doubtful.chat()
    assert response.headers["x-stillhouse-route"] == "teacher"
    assert float(response.headers["x-stillhouse-confidence"]) == pytest.approx(0.3)
    body = response.json()
    assert body["model"] == "reviews-teacher"
    assert body["choices"][0]["message"]["content"] == "negative"
    assert body["usage"] == {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}


def test_a_plain_prompt_task_renders_the_chat(confident: Gateway) -> None:
    confident.chat()
    (question,) = confident.student.questions
    assert question.prompt.text == PROMPT
    assert question.parameters == policy(0.5).sampling, "drawn as the policy was calibrated"


def test_a_chat_task_passes_the_messages_on() -> None:
    gateway = Gateway(sure("positive"), sure("negative"), task=CHAT_REVIEWS)
    parts = [{"type": "text", "text": "ok"}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert gateway.chat(messages=messages).json()["choices"][0]["message"]["content"] == "positive"
    assert gateway.student.questions[0].prompt.messages == tuple(messages)


def test_what_the_client_sets_goes_to_the_engine(confident: Gateway) -> None:
    given = {"temperature": 0.7, "top_p": 0.9, "seed": 3, "stop": ["x"], "max_completion_tokens": 5, "n": 1}
    assert confident.chat(**given).status_code == 200
    parameters = confident.student.questions[0].parameters
    assert {name: parameters[name] for name in ("temperature", "top_p", "seed", "stop", "max_tokens")} == {
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["x"],
        "max_tokens": 5,
    }


@pytest.mark.parametrize(
    ("given", "route"),
    [
        ({"temperature": 0.1}, "teacher"),
        ({"top_p": 0.5}, "teacher"),
        ({"stop": "x"}, "teacher"),
        ({"temperature": 0, "top_p": 1, "stop": [], "seed": 3, "max_tokens": 1}, "student"),
    ],
)
def test_a_confidence_that_the_policy_does_not_know_is_not_trusted(
    confident: Gateway, given: dict[str, Any], route: str
) -> None:
    assert confident.chat(**given).headers["x-stillhouse-route"] == route
    assert confident.chat(model="reviews-student", **given).headers["x-stillhouse-route"] == "student"


@pytest.mark.parametrize(("max_tokens", "route"), [(3, "teacher"), (4, "student"), (5, "student")])
def test_a_text_that_may_be_cut_short_is_not_trusted(max_tokens: int, route: str) -> None:
    task = Task(kind="text", prompt="Shorten: {text}", max_tokens=4)
    gateway = Gateway(sure("short"), sure("brief"), task=task)
    assert gateway.chat(max_tokens=max_tokens).headers["x-stillhouse-route"] == route


def test_completions_take_the_whole_prompt_and_keep_the_space(doubtful: Gateway) -> None:
    response = doubtful.complete()
    assert response.headers["x-stillhouse-route"] == "teacher"
    body = response.json()
    assert (body["object"], body["model"]) == ("text_completion", "reviews-teacher")
    assert body["choices"] == [{"index": 0, "text": " negative", "logprobs": None, "finish_reason": "stop"}]
    assert doubtful.teacher.questions[0].prompt.text == PROMPT


@pytest.mark.parametrize(
    ("model", "route", "text", "confidence"),
    [("reviews-student", "student", "positive", "0.300000"), ("reviews-teacher", "teacher", "negative", None)],
)
def test_a_route_by_name(doubtful: Gateway, model: str, route: str, text: str, confidence: str | None) -> None:
    response = doubtful.chat(model=model)
    assert response.headers["x-stillhouse-route"] == route
    assert response.headers.get("x-stillhouse-confidence") == confidence
    assert response.json()["model"] == model
    assert response.json()["choices"][0]["message"]["content"] == text
    assert len(doubtful.student.questions) + len(doubtful.teacher.questions) == 1


def test_logprobs_for_a_client_that_asks(confident: Gateway) -> None:
    logprobs = confident.chat(logprobs=True, top_logprobs=1).json()["choices"][0]["logprobs"]
    first = logprobs["content"][0]
    assert first["token"] == "t0"
    assert first["logprob"] == pytest.approx(math.log(0.9))
    assert first["bytes"] == [116, 48]
    assert [other["token"] for other in first["top_logprobs"]] == ["t0"]
    assert confident.student.questions[0].top_logprobs == 1

    plain = confident.complete(logprobs=2).json()["choices"][0]["logprobs"]
    assert plain["tokens"] == ["t0", "t1"]
    assert plain["token_logprobs"] == pytest.approx([math.log(0.9), 0.0])
    assert plain["text_offset"] == [0, 2]
    assert list(plain["top_logprobs"][0]) == ["t0", "other"]


def test_a_stream_says_what_the_whole_answer_says(doubtful: Gateway) -> None:
    doubtful.teacher.reply = says("two  words\n", math.log(0.9), 0.0)
    gateway = Gateway(unsure("posit"), doubtful.teacher, task=CHAT_REVIEWS)
    response = gateway.chat(stream=True, stream_options={"include_usage": True})
    assert response.headers["x-stillhouse-route"] == "teacher"
    chunks = events(response)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {"reviews-teacher"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    said = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]]
    assert "".join(said) == "two  words\n"
    assert len([piece for piece in said if piece]) > 1, "in pieces"
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_a_stream_without_usage_has_none(confident: Gateway) -> None:
    chunks = events(confident.chat(stream=True))
    assert all("usage" not in chunk for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_stream_of_completions_with_logprobs(confident: Gateway) -> None:
    chunks = events(confident.complete(stream=True, logprobs=0))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == " positive"
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    assert [one["tokens"] for one in told] == [["t0", "t1"]]


def test_degraded() -> None:
    response = Gateway(unsure(" positive"), EngineFailed("gone")).chat()
    assert response.status_code == 200
    assert response.headers["x-stillhouse-route"] == "degraded"
    assert response.json()["model"] == "reviews-student"


@pytest.mark.parametrize("stream", [False, True])
def test_both_gone(stream: bool) -> None:
    response = Gateway(EngineFailed("gone"), EngineFailed("gone")).chat(stream=stream)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["error"]["type"] == "server_error"


def test_a_prompt_that_is_too_long() -> None:
    refusal = EngineRefused("the maximum context length is 256 tokens", too_long=True)
    gateway = Gateway(refusal, refusal)
    for response, param in ((gateway.chat(), "messages"), (gateway.complete(), "prompt")):
        assert response.status_code == 400
        assert response.json()["error"] == {
            "message": "the maximum context length is 256 tokens",
            "type": "invalid_request_error",
            "param": param,
            "code": "context_length_exceeded",
        }


def test_an_unknown_model_is_404(confident: Gateway) -> None:
    error = confident.chat(model="gpt-4").json()["error"]
    assert confident.chat(model="gpt-4").status_code == 404
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "reviews-teacher" in error["message"]
    assert confident.student.questions == []


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"tools": []}, "tools"),
        ({"response_format": {"type": "text"}}, "response_format"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"guided_choice": ["a"]}, "guided_choice"),
        ({"n": 2}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": 3}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": []}]}, "messages.0.tool_calls"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"stream": True, "stream_options": {"continuous": True}}, "stream_options.continuous"),
        # What a plain prompt cannot be made from.
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [*MESSAGES, *MESSAGES]}, "messages"),
    ],
)
def test_a_wrong_or_unsupported_parameter_is_named(confident: Gateway, given: dict[str, Any], param: str) -> None:
    response = confident.chat(**given)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert param.split(".")[-1] in error["message"] or param == "messages"
    assert confident.student.questions == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 3, "max_completion_tokens": 3}, "max_completion_tokens"),
    ],
)
def test_parameters_that_need_each_other(confident: Gateway, given: dict[str, Any], says: str) -> None:
    response = confident.chat(**given)
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": "reviews", "messages": NaN}'])
def test_a_body_that_is_no_request(confident: Gateway, body: bytes) -> None:
    response = confident.http.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_half_a_character_is_refused(confident: Gateway) -> None:
    body = b'{"model": "reviews", "messages": [{"role": "user", "content": "\\ud800"}]}'
    assert confident.http.post("/v1/chat/completions", content=body).status_code == 400


def test_a_missing_prompt_is_named(confident: Gateway) -> None:
    response = confident.http.post("/v1/completions", json={"model": "reviews"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"


def test_a_body_is_bounded(confident: Gateway) -> None:
    response = confident.http.post("/v1/chat/completions", content=b" " * (MAX_BODY_BYTES + 1))
    assert response.status_code == 413
    assert "error" in response.json()


def test_models(confident: Gateway) -> None:
    listed = confident.http.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["reviews", "reviews-student", "reviews-teacher"]
    assert confident.http.get("/v1/models/reviews-teacher").json()["id"] == "reviews-teacher"
    assert confident.http.get("/v1/models/other").status_code == 404


@pytest.mark.parametrize(("path", "status"), [("/v1/nothing", 404), ("/v1/chat/completions", 405)])
def test_errors_outside_the_routes_have_the_same_shape(confident: Gateway, path: str, status: int) -> None:
    response = confident.http.get(path)
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_fault_of_the_gateways_own_is_a_500_in_the_same_shape(confident: Gateway) -> None:
    confident.student.reply = "no Generation at all"
    response = confident.chat()
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert 'stillhouse_requests_total{route="none",status="500"} 1.0' in confident.http.get("/metrics").text


@pytest.mark.parametrize(
    ("student", "teacher", "status"), [(True, True, 200), (True, False, 200), (False, True, 200), (False, False, 503)]
)
def test_ready_as_long_as_an_answer_is_possible(student: bool, teacher: bool, status: int) -> None:
    gateway = Gateway(Scripted(sure(" positive"), healthy=student), Scripted(sure(" negative"), healthy=teacher))
    response = gateway.http.get("/readyz")
    assert response.status_code == status
    assert response.json() == {"student": student, "teacher": teacher}
    assert gateway.http.get("/healthz").status_code == 200


def test_metrics_count_routes_and_errors(doubtful: Gateway) -> None:
    doubtful.chat()
    doubtful.chat(model="reviews-student")
    doubtful.chat(model="other")
    doubtful.teacher.reply = EngineFailed("gone")
    doubtful.chat()
    text = doubtful.http.get("/metrics").text
    for line in (
        'stillhouse_requests_total{route="teacher",status="200"} 1.0',
        'stillhouse_requests_total{route="student",status="200"} 1.0',
        'stillhouse_requests_total{route="degraded",status="200"} 1.0',
        'stillhouse_requests_total{route="none",status="404"} 1.0',
        'stillhouse_request_seconds_count{route="teacher"} 1.0',
    ):
        assert line in text


def test_the_log_holds_neither_prompt_nor_answer(doubtful: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="services")
    doubtful.chat(messages=[{"role": "user", "content": "a secret"}])
    doubtful.teacher.reply = EngineFailed("gone")
    doubtful.chat(messages=[{"role": "user", "content": "a secret"}])
    assert "route=teacher" in caplog.text
    assert "degraded" in caplog.text
    assert "secret" not in caplog.text
    assert "negative" not in caplog.text
