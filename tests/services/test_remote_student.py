"""The gateway over a student that lies at an endpoint: over real HTTP, in the cascade, and deployed."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from datasets_made import commit_remote_student
from fastapi.testclient import TestClient
from recipes import REVIEWS, policy, recipe
from scripted import Scripted, sure
from scripted_endpoint import Call, Reply, error
from scripted_tuning import BASE, ScriptedTuning

from services.app import build, main
from services.gateway.app import make_app
from services.gateway.cascade import Cascade
from services.gateway.engine import EngineFailed, EngineRefused, Generation, Question
from services.gateway.remote_engine import RemoteEngine
from services.student import policy as policy_of
from services.student import student
from stillhouse.endpoint import client
from stillhouse.endpoint.student import RemoteStudent, chat_model
from stillhouse.errors import UserError
from stillhouse.policy import Policy
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.task import Prompt, task_hash

KEY = "sk-a-secret/of+the=tests"
MODEL = f"ft:{BASE}:org:films:0"
PLAIN = Prompt(text="Review: a joy\nSentiment:")


def made(url: str, **openai: Any) -> Recipe:
    """A recipe whose student is at `url`."""
    return recipe(student={"openai": {"model": BASE, "url": url, "api_key_env": "STUDENT_KEY", **openai}})


def answering(prompt: str) -> str:
    if "strange" in prompt:
        return "Neither."
    return "positive" if "joy" in prompt else "negative"


def confidence(prompt: str) -> float:
    return 0.3 if "doubtful" in prompt else 0.9


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer: Callable[..., Any]) -> Any:
    """One of bytes, as OpenAI's are."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["positive negative"], trainer)
    built = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    built.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return built


@pytest.fixture
def endpoint(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedTuning]:
    monkeypatch.setenv("STUDENT_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(client, "_FIRST_BACKOFF_S", 0.001)
    with ScriptedTuning(answering, tokenizer=tokenizer, key=KEY, model=MODEL, confidence=confidence) as endpoint:
        yield endpoint


def engine(url: str, **openai: Any) -> RemoteEngine:
    found = RemoteStudent(model=MODEL, url=url, job="ftjob-0", openai={})
    return RemoteEngine(chat_model(found, made(url, **openai), live=True), REVIEWS)


def ask(url: str, prompt: Prompt = PLAIN, **question: Any) -> Generation:
    return asyncio.run(engine(url).ask(Question(prompt, **question)))


def test_what_is_asked_and_what_is_read(endpoint: ScriptedTuning) -> None:
    parameters = policy(0.5).sampling | {"seed": 7, "top_p": 0.5}
    found = ask(endpoint.url, parameters=parameters, top_logprobs=2)
    assert endpoint.calls[0].body == {
        "model": MODEL,
        "messages": [{"role": "user", "content": PLAIN.text}],
        "logprobs": True,
        "top_logprobs": 2,
        "max_tokens": 4,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 7,
    }, "without what only vLLM knows"
    assert (found.text, found.finish_reason) == (" positive", "stop")
    assert "".join(token.text for token in found.tokens) == "positive"
    assert len(found.tokens[0].top) == 2
    assert found.usage.completion_tokens == len(found.tokens) + 1, "the end is billed, and has no logprob"


def test_chat_messages_go_as_they_are(endpoint: ScriptedTuning) -> None:
    messages = ({"role": "system", "content": "Judge."}, {"role": "user", "content": "a joy"})
    assert ask(endpoint.url, Prompt(messages=messages)).text == "positive"
    assert endpoint.calls[0].body["messages"] == list(messages)


def test_whether_it_is_healthy_is_not_asked_at_every_probe(endpoint: ScriptedTuning) -> None:
    asked: list[str] = []
    reply = endpoint.reply

    def counting(method: str, path: str, *words: Any) -> Reply:
        asked.append(path)
        return reply(method, path, *words)

    endpoint.reply = counting  # type: ignore[method-assign]

    async def probes(model: RemoteEngine) -> list[bool]:
        return [await model.healthy() for _ in range(3)]

    assert asyncio.run(probes(engine(endpoint.url))) == [True, True, True]
    assert asked == [f"/v1/models/{MODEL}"]
    endpoint.model = "ft:other"
    assert asyncio.run(probes(engine(endpoint.url))) == [False, False, False]


@pytest.mark.parametrize(
    ("fault", "raised", "sentence"),
    [
        (error(400, "too long", code="context_length_exceeded"), EngineRefused, "too long"),
        (error(400, "no", param="stop"), EngineRefused, "the parameter `stop`"),
        (error(401), EngineFailed, r"refuses the key in STUDENT_KEY \(401\)"),
        (error(404), EngineFailed, f"knows no model '{MODEL}'"),
        (error(500, "on fire"), EngineFailed, "in 2 attempts: 500: on fire"),
        (error(429, headers={"retry-after": "20"}), EngineFailed, "asks to be left alone for 20 s"),
        (Reply(200, b"<html>"), EngineFailed, "is not JSON"),
        (Reply(200, b'{"choices": []}'), EngineFailed, "has not the shape of a chat"),
    ],
)
def test_what_fails_and_what_the_client_has_to_mend(
    endpoint: ScriptedTuning, fault: Reply, raised: type[Exception], sentence: str
) -> None:
    endpoint.fault = lambda _: fault
    with pytest.raises(raised, match=sentence) as told:
        ask(endpoint.url)
    assert KEY not in str(told.value)
    if isinstance(told.value, EngineRefused):
        assert told.value.too_long is ("too long" in sentence)


def test_an_endpoint_that_was_gone_is_asked_again(endpoint: ScriptedTuning) -> None:
    model = engine(endpoint.url)

    async def twice() -> Generation:
        endpoint.fault = lambda _: error(401)
        with pytest.raises(EngineFailed):
            await model.ask(Question(PLAIN))
        endpoint.fault = lambda _: None
        return await model.ask(Question(PLAIN))

    assert asyncio.run(twice()).text == " positive"


@pytest.fixture
def http(endpoint: ScriptedTuning) -> Iterator[TestClient]:
    """The whole endpoint, with a teacher that is scripted."""
    found = policy(0.5)
    cascade = Cascade(engine(endpoint.url), Scripted(sure(" negative")), task=REVIEWS, policy=found, timeout_s=5)
    with TestClient(make_app("reviews", REVIEWS, cascade, found.sampling)) as http:
        yield http


def chat(http: TestClient, text: str, **body: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return http.post("/v1/chat/completions", json={"model": "reviews", "messages": messages, **body})


@pytest.mark.parametrize(
    ("text", "route", "said"),
    [
        ("a joy", "student", "positive"),
        ("a doubtful joy", "teacher", "negative"),
        ("a strange joy", "teacher", "negative"),
    ],
)
def test_the_cascade_decides_by_its_logprobs(http: TestClient, text: str, route: str, said: str) -> None:
    response = chat(http, text)
    body = response.json()
    assert (response.headers["x-stillhouse-route"], body["choices"][0]["message"]["content"]) == (route, said)
    expected = 0.3 if "doubtful" in text else 0.9
    assert float(response.headers["x-stillhouse-confidence"]) == pytest.approx(expected, abs=1e-5)
    assert body["model"] == f"reviews-{route}"
    streamed = chat(http, text, stream=True)
    pieces = [json.loads(line[6:]) for line in streamed.text.split("\n\n") if line.startswith("data: {")]
    assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces) == said
    assert streamed.headers["x-stillhouse-route"] == route


def test_without_logprobs_the_teacher_answers(http: TestClient, endpoint: ScriptedTuning) -> None:
    endpoint.confidence = None
    assert chat(http, "a joy").headers["x-stillhouse-route"] == "teacher"


def test_logprobs_of_another_text_are_none(http: TestClient, endpoint: ScriptedTuning) -> None:
    completions = endpoint.completions

    def cut(path: str, body: Any) -> dict[str, Any]:
        found = completions(path, body)
        del found["choices"][0]["logprobs"]["content"][0]
        return found

    endpoint.completions = cut  # type: ignore[method-assign]
    assert chat(http, "a joy").headers["x-stillhouse-route"] == "teacher"


def test_when_it_is_busy_the_teacher_answers_at_once(http: TestClient, endpoint: ScriptedTuning) -> None:
    def busy(_: Call) -> Reply | None:
        return error(429, headers={"retry-after": "600"})

    endpoint.fault = busy
    for _ in range(3):
        assert chat(http, "a joy").headers["x-stillhouse-route"] == "teacher"
    endpoint.fault = lambda _: None
    assert chat(http, "a joy").headers["x-stillhouse-route"] == "student"


def test_clients_logprobs_are_the_endpoints(http: TestClient) -> None:
    (choice,) = chat(http, "a joy", model="reviews-student", logprobs=True, top_logprobs=1).json()["choices"]
    assert "".join(entry["token"] for entry in choice["logprobs"]["content"]) == "positive"
    assert all(len(entry["top_logprobs"]) == 1 for entry in choice["logprobs"]["content"])
    plain = {"model": "reviews-student", "prompt": PLAIN.text}
    assert http.post("/v1/completions", json=plain).json()["choices"][0]["text"] == " positive"


def remote_run(folder: Path, url: str, *, model: str = MODEL) -> Run:
    """A finished run whose student is at `url`, with a policy for the student called `model`."""
    found = made(url)
    run = Run.open(str(folder))
    run.begin(found)
    commit_remote_student(found, run, MODEL)
    manifest = run.manifest("student")
    assert manifest is not None
    calibrated = policy(0.5, student_hash=manifest.content_hash(), task_hash=task_hash(found.task))
    saved = Policy.model_validate({**calibrated.model_dump(), "student_model": model})
    run.storage.write("evaluation/policy.json", saved.save())
    run.commit("evaluation", recipe=found, inputs={}, began=time.monotonic())
    return run


def test_it_is_served_without_an_engine_of_its_own(tmp_path: Path) -> None:
    run = remote_run(tmp_path / "run", "http://127.0.0.1:9/v1")
    found = student(run.recipe(), "reviews-student", run)
    assert isinstance(found, RemoteStudent)
    assert found.model == policy_of(run, run.recipe()).student_model == MODEL


def test_a_policy_of_another_model_is_refused(tmp_path: Path) -> None:
    run = remote_run(tmp_path / "run", "http://127.0.0.1:9/v1", model="ft:other")
    with pytest.raises(UserError, match=f"calibrated for ft:other, not for {MODEL}"):
        build({"run": run.uri})


def test_a_model_that_was_written_over_is_refused(tmp_path: Path) -> None:
    run = remote_run(tmp_path / "run", "http://127.0.0.1:9/v1")
    commit_remote_student(made("http://127.0.0.1:9/v1"), run, "ft:another")
    with pytest.raises(UserError, match="calibrated for"):
        build({"run": run.uri})


def test_without_its_key_nothing_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = remote_run(tmp_path / "run", "http://127.0.0.1:9/v1")
    monkeypatch.delenv("STUDENT_KEY", raising=False)
    monkeypatch.setattr("sys.argv", ["services.app", "--run", run.uri, "--port", "0"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "STUDENT_KEY holds no key for the student's endpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_deployed_the_gateway_asks_with_the_key_of_its_node(endpoint: ScriptedTuning, tmp_path: Path) -> None:
    """Ray Serve's own gateway; the teacher is a deployment that says the same of everything."""
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions

    from services.gateway import deployment as gateway

    class Teacher:
        async def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
            logprobs = {"tokens": [" negative"], "token_logprobs": [0.0]}
            choice = {"text": " negative", "finish_reason": "stop", "logprobs": logprobs}
            return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}

    run = remote_run(tmp_path / "run", endpoint.url)
    found = Policy.load(run.storage.read("evaluation/policy.json"))
    remote = RemoteStudent.model_validate_json(run.storage.read("student/model.json"))
    folder = tempfile.mkdtemp(prefix="sh-", dir="/tmp")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        ray.init(
            address="local",
            num_cpus=3,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
        )
        serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
        teacher = serve.deployment(Teacher, ray_actor_options={"num_cpus": 0}).bind()
        serve.run(gateway.deployment(run.recipe(), found, student=remote, teacher=teacher))
        url = f"http://127.0.0.1:{port}"
        for text, route in (("a joy", "student"), ("a doubtful joy", "teacher")):
            body = {"model": "reviews", "messages": [{"role": "user", "content": text}]}
            response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
            assert (response.status_code, response.headers["x-stillhouse-route"]) == (200, route), response.text
        assert httpx.get(f"{url}/readyz", trust_env=False).json()["student"] is True
        serve.shutdown()
    finally:
        ray.shutdown()
        logs = b"".join(path.read_bytes() for path in Path(folder).rglob("*.log"))
        shutil.rmtree(folder, ignore_errors=True)
    assert logs
    assert KEY.encode() not in logs
