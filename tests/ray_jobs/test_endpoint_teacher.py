"""A teacher behind HTTP: what it is asked, what is believed of its answers, and what becomes of its faults."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from endpoint_parts import (
    KEY,
    TEXTS,
    MakeRecipe,
    at,
    byte_level_tokenizer,
    key,
    questions,
    quick,
    tokenizer_folder,
)
from scripted_endpoint import Call, Reply, ScriptedEndpoint, error, one_of
from transformers import AutoTokenizer

from ray_jobs.capture import endpoint_teacher
from ray_jobs.capture.endpoint_teacher import GIVE_UP_AFTER, EndpointTeacher
from ray_jobs.capture.spending import Account, ledger
from ray_jobs.capture.teacher import Failure
from stillhouse.cost.billing import FOLDER, Attempt, BilledTokens
from stillhouse.endpoint.client import retry_after
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.signal.schema import Completion

__all__ = ["key", "quick", "tokenizer_folder"]

ANSWER = one_of(" positive", " negative — größtenteils", " 良い")
CHAT_TASK = {
    "task__prompt": None,
    "task__messages": [{"role": "system", "content": "Judge."}, {"role": "user", "content": "{text}"}],
}

Ask = Callable[..., list[Any]]


class Asked:
    """A recipe's teacher at a scripted endpoint."""

    def __init__(self, make_recipe: MakeRecipe, folder: Path, tmp_path: Path) -> None:
        self._make, self._folder = make_recipe, folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.run = Run.open(str(tmp_path / "run"))

    def recipe(self, endpoint: ScriptedEndpoint, **changes: Any) -> Recipe:
        recipe = self._make(at(endpoint.url, self._folder, **changes))
        self.run.begin(recipe)
        return recipe

    def teacher(self, endpoint: ScriptedEndpoint, **changes: Any) -> EndpointTeacher:
        recipe = self.recipe(endpoint, **changes)
        return EndpointTeacher(recipe, recipe.teacher, self.run)

    def __call__(
        self, endpoint: ScriptedEndpoint, texts: list[str] = TEXTS, part: int = 0, **changes: Any
    ) -> list[Any]:
        recipe = self.recipe(endpoint, **changes)
        return list(EndpointTeacher(recipe, recipe.teacher, self.run).answer(part, questions(recipe, texts)))

    def endpoint(self, **script: Any) -> ScriptedEndpoint:
        return ScriptedEndpoint(**{"answer": ANSWER, "tokenizer": self.tokenizer, "key": KEY, **script})


@pytest.fixture
def ask(make_recipe: MakeRecipe, tokenizer_folder: Path, tmp_path: Path, key: str, quick: None) -> Asked:
    return Asked(make_recipe, tokenizer_folder, tmp_path)


def only_first(fault: Reply) -> Callable[[Call], Reply | None]:
    """The fault at the first time that a prompt is asked."""
    return lambda call: fault if call.times == 0 else None


def at_text(text: str, fault: Reply) -> Callable[[Call], Reply | None]:
    """The fault at one of the prompts, however often it is asked."""
    return lambda call: fault if text in call.prompt else None


# What is asked, and what comes of it


@pytest.mark.parametrize("api", ["openai", "vllm"])
@pytest.mark.parametrize("task", [{}, CHAT_TASK])
def test_logprobs_become_signal(ask: Asked, api: str, task: dict[str, Any]) -> None:
    with ask.endpoint() as endpoint:
        answers = ask(endpoint, teacher__api=api, **task)
    tokenizer = ask.tokenizer
    for completion, prompt in zip(answers, sorted(endpoint.prompts(), key=_place), strict=True):
        ((made,),) = (completion,)
        text = endpoint.answer(prompt)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert made.text == text
        assert made.token_ids == [*ids, tokenizer.eos_token_id]
        assert made.prompt_token_ids == tokenizer(prompt)["input_ids"]
        assert (made.finish_reason, len(made.signal)) == ("stop", len(made.token_ids))
        for t, token in enumerate(ids):
            expected = endpoint.distribution(token)[:5]
            found_ids, found_logprobs = made.signal.at(t)
            assert found_ids.tolist() == [i for i, _ in expected]
            assert found_logprobs.tolist() == pytest.approx([value for _, value in expected])
            assert made.token_logprobs[t] == pytest.approx(math.log(0.5))
        # OpenAI does not tell how probable the end was; vLLM does.
        assert len(made.signal.at(len(ids))[0]) == (5 if api == "vllm" else 0)


def _place(prompt: str) -> int:
    return next(i for i, text in enumerate(TEXTS) if f" {text}\n" in prompt or f">{text}<" in prompt)


def test_text_alone_is_stored_in_the_students_tokens(ask: Asked) -> None:
    with ask.endpoint(tokenizer=None) as endpoint:
        answers = ask(endpoint, capture__mode="text")
        teacher = ask.teacher(endpoint, capture__mode="text")
    assert teacher.identity.engine == f"endpoint {endpoint.url}"
    tokenizer = ask.tokenizer
    for (made,) in answers:
        assert (made.signal, made.token_logprobs) == (None, None)
        assert made.token_ids == [*tokenizer(made.text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        assert tokenizer.decode(made.prompt_token_ids).startswith("Review: ")


def test_a_truncated_text_has_no_end(ask: Asked) -> None:
    def cut(call: Call) -> Reply:
        body = endpoint.completions(call.path, call.body)
        body["choices"][0]["finish_reason"] = "length"
        return Reply(body=json.dumps(body).encode())

    with ask.endpoint(fault=cut) as endpoint:
        (((text,),), ((signal,),)) = (ask(endpoint, TEXTS[:1], capture__mode="text"), ask(endpoint, TEXTS[:1]))
    assert text.token_ids[-1] != ask.tokenizer.eos_token_id
    assert signal.token_ids[-1] != ask.tokenizer.eos_token_id


def test_what_is_sent(ask: Asked) -> None:
    sampled = {"task__sampling": {"temperature": 0.7, "top_p": 0.9, "stop": ["\n"]}, "capture__n": 3}
    with ask.endpoint() as endpoint:
        ask(endpoint, TEXTS[:1], **CHAT_TASK, **sampled)
        ask(endpoint, TEXTS[:1], teacher__api="vllm", **sampled)
        (made,) = ask(endpoint, TEXTS[:1], capture__mode="text")
    openai, vllm, text = (dict(call.body) for call in endpoint.calls)
    shared = {
        "model": "teacher",
        "temperature": 0.7,
        "top_p": 0.9,
        "stop": ["\n"],
        "n": 3,
        "seed": 100,
        "max_tokens": 16,
    }
    messages = [{"role": "system", "content": "Judge."}, {"role": "user", "content": TEXTS[0]}]
    assert openai == {**shared, "messages": messages, "logprobs": True, "top_logprobs": 5}
    neutral = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    by_id = {"return_token_ids": True, "return_tokens_as_token_ids": True}
    assert vllm == {**shared, **neutral, **by_id, "prompt": f"Review: {TEXTS[0]}\nSentiment:", "logprobs": 5}
    assert text == {"model": "teacher", "temperature": 0.0, "max_tokens": 16, "prompt": vllm["prompt"]}
    assert len(made) == 1


def test_choices_and_schemas_hold_the_answer(ask: Asked) -> None:
    choices = {"task__kind": "choices", "task__choices": [" positive", " negative"]}
    closed = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    json_task = {**CHAT_TASK, "task__kind": "json", "task__json_schema": closed}
    loose = {**json_task, "task__json_schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
    text = {"capture__mode": "text"}
    with ask.endpoint(answer=lambda _: ' {"a": "b"}') as endpoint:
        for task in ({**choices, **text, "teacher__api": "vllm"}, {**choices, **text}, json_task, loose):
            ask(endpoint, TEXTS[:1], **task)
    vllm, alone, strict, lax = (call.body for call in endpoint.calls)
    assert vllm["structured_outputs"] == {"choice": [" positive", " negative"]}
    assert "response_format" not in alone
    assert "structured_outputs" not in alone
    assert strict["response_format"]["json_schema"] == {"name": "answer", "schema": closed, "strict": True}
    assert lax["response_format"]["json_schema"]["strict"] is False


def test_choices_through_vllm_are_told_by_the_tokens_of_the_choices_alone(ask: Asked) -> None:
    choices = {"task__kind": "choices", "task__choices": [" positive", " negative"], "teacher__api": "vllm"}

    def normalised(call: Call) -> Reply:
        allowed = call.body["allowed_token_ids"]
        body = endpoint.completions(call.path, call.body)
        found = body["choices"][0]["logprobs"]
        # As vLLM tells a logprob of -inf.
        found["top_logprobs"] = [
            {t: v if int(t.removeprefix("token_id:")) in allowed else -9999.0 for t, v in top.items()}
            for top in found["top_logprobs"]
        ]
        return Reply(body=json.dumps(body).encode())

    with ask.endpoint(answer=one_of(" positive", " negative")) as endpoint:
        with pytest.raises(UserError, match="--logprobs-mode processed_logprobs"):
            ask(endpoint, **choices)
        endpoint.fault = normalised
        answers = ask(endpoint, **choices)
    allowed = set(endpoint.calls[-1].body["allowed_token_ids"])
    assert all(set(made.signal.ids.tolist()) <= allowed for (made,) in answers)
    assert ask.tokenizer.eos_token_id in allowed


def test_vllms_sampled_token_does_not_stand_in_for_a_more_probable_one(ask: Asked) -> None:
    def improbable(call: Call) -> Reply:
        body = endpoint.completions(call.path, call.body)
        for entry in body["choices"][0]["logprobs"]["content"]:
            # Drawn from far below: vLLM puts it first and cuts at k, so that the k-th most probable is missing.
            entry["logprob"] = entry["top_logprobs"][0]["logprob"] = -9.0
        return Reply(body=json.dumps(body).encode())

    with ask.endpoint(fault=improbable) as endpoint:
        ((made,),) = ask(endpoint, TEXTS[:1], teacher__api="vllm", **CHAT_TASK)
    assert made.token_logprobs == [-9.0] * len(made.token_ids)
    assert made.signal.counts.tolist() == [4] * len(made.token_ids)
    assert made.token_ids[0] not in made.signal.at(0)[0]


def test_newer_models_take_their_limit_by_another_name(ask: Asked) -> None:
    def newer(call: Call) -> Reply | None:
        if "max_tokens" in call.body:
            return error(400, "Use 'max_completion_tokens'", param="max_tokens", code="unsupported_parameter")
        return None

    with ask.endpoint(fault=newer) as endpoint:
        answers = ask(endpoint, **CHAT_TASK)
        assert all(isinstance(made, Completion) for (made,) in answers)
        with pytest.raises(UserError, match="does not take the parameter `max_tokens`"):
            ask(endpoint)


# Faults of one record


def test_faults_that_pass_are_tried_again(ask: Asked) -> None:
    faults = {
        TEXTS[0]: error(429, headers={"retry-after": "0"}),
        TEXTS[1]: error(500),
        TEXTS[2]: error(503, headers={"retry-after": "0"}),
        TEXTS[3]: Reply(529, b"<html>overloaded</html>", {"content-type": "text/html"}),
    }

    def fault(call: Call) -> Reply | None:
        return next((reply for text, reply in faults.items() if f" {text}\n" in call.prompt and call.times == 0), None)

    with ask.endpoint(fault=fault) as endpoint:
        answers = ask(endpoint)
        undisturbed = ask(ask.endpoint().__enter__())
    assert [made.text for (made,) in answers] == [made.text for (made,) in undisturbed]
    assert len(endpoint.calls) == len(TEXTS) + len(faults)


def test_a_request_that_hangs_is_given_up_and_sent_again(ask: Asked) -> None:
    with ask.endpoint(fault=only_first(Reply(hang_s=60))) as endpoint:
        ((made,),) = ask(endpoint, TEXTS[:1], teacher__timeout_s=0.3)
        assert made.text == endpoint.answer(endpoint.calls[0].prompt)
        endpoint.fault = lambda _: Reply(hang_s=60)
        (failed,) = ask(endpoint, TEXTS[1:2], teacher__timeout_s=0.3, teacher__max_attempts=2)
    assert failed == Failure("the endpoint did not answer in 2 attempts: no answer in 0.3 s")


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [({"connection": "close"}, "the connection broke"), ({}, "no answer in 0.5 s")],
)
def test_an_answer_that_stops_in_its_middle(ask: Asked, headers: dict[str, str], sentence: str) -> None:
    half = Reply(body=b'{"choices": [', headers={"content-length": "1000", **headers})
    options = {"teacher__max_attempts": 2, "teacher__timeout_s": 0.5}
    with ask.endpoint(fault=at_text(TEXTS[1], half)) as endpoint:
        answers = ask(endpoint, TEXTS[:2], **options)
        assert isinstance(answers[0], list)
        assert isinstance(answers[1], Failure)
        assert sentence in answers[1].error
        endpoint.fault = only_first(half)
        assert isinstance(ask(endpoint, ["a new film"], **options)[0], list)


def test_several_completions_of_each_prompt(ask: Asked) -> None:
    drawn = {"task__sampling": {"temperature": 1.0}, "capture__n": 3}
    with ask.endpoint() as endpoint:
        assert [len(made) for made in ask(endpoint, **drawn)] == [3] * len(TEXTS)

        def one(call: Call) -> Reply:
            return Reply(body=json.dumps(endpoint.completions(call.path, {**call.body, "n": 1})).encode())

        endpoint.fault = one
        assert ask(endpoint, TEXTS[:1], **drawn) == [Failure("the endpoint sent 1 completions where 3 were asked for")]


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (error(400, "This model's maximum context length is 10", param="messages"), "the request (400: This model's"),
        (Reply(body=b'{"choices": [{'), "the endpoint's answer is not JSON"),
        (Reply(body=b"[]"), "the endpoint's answer is not a JSON object"),
        (Reply(body=b"\xff\xfe"), "the endpoint's answer is not JSON"),
        (Reply(body=b'{"choices": []}'), "sent 0 completions where 1 were asked for"),
        (Reply(body=b'{"error": "overloaded"}'), "sent no completions where 1"),
        (Reply(body=b'{"choices": [{"text": null, "finish_reason": "stop"}]}'), "the endpoint's answer holds no text"),
        (Reply(body=b'{"choices": [{"text": "a", "finish_reason": "content_filter"}]}'), "'content_filter'"),
    ],
)  # fmt: skip
def test_one_records_fault_is_its_own(ask: Asked, reply: Reply, sentence: str) -> None:
    with ask.endpoint(fault=at_text(TEXTS[1], reply)) as endpoint:
        answers = ask(endpoint)
    assert isinstance(answers[1], Failure)
    assert sentence in answers[1].error
    assert [isinstance(answer, Failure) for answer in answers].count(True) == 1
    assert len(endpoint.calls) == len(TEXTS)


def test_a_refusal_is_no_answer(ask: Asked) -> None:
    def refuse(call: Call) -> Reply:
        body = endpoint.completions(call.path, call.body)
        body["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": "I cannot"}
        return Reply(body=json.dumps(body).encode())

    with ask.endpoint(fault=refuse) as endpoint:
        assert ask(endpoint, TEXTS[:1], **CHAT_TASK) == [Failure("the model refused to answer")]


# Faults of the endpoint


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (error(403, "Country not supported"), r"refuses all requests \(403: Country not supported\)"),
        (error(404, "The model `x` does not exist"), "knows no model 'teacher'"),
        (error(429, "You exceeded your quota", code="insufficient_quota"), "has no money left"),
        (error(429, headers={"retry-after": "86400"}), "left alone for 1440 minutes"),
        (error(400, "no", param="store", code="unknown_parameter"), "does not take the parameter `store`"),
        (error(400, "Invalid schema", param="response_format.json_schema"), "does not take the parameter `response_fo"),
    ],
)
def test_the_endpoints_fault_ends_the_job_at_once(ask: Asked, reply: Reply, sentence: str) -> None:
    with ask.endpoint(fault=lambda _: reply) as endpoint, pytest.raises(UserError, match=sentence):
        ask(endpoint, teacher__max_concurrency=1)
    assert len({call.prompt for call in endpoint.calls}) == 1, "no other record was burnt"


def test_a_wrong_key_is_told_without_it(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-wrong")
    with ask.endpoint() as endpoint, pytest.raises(UserError) as told:
        ask(endpoint)
    assert str(told.value) == f"the endpoint {endpoint.url} refuses the key in TEACHER_KEY (401)"


def test_a_missing_key(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_KEY")
    with ask.endpoint() as endpoint:
        with pytest.raises(UserError, match="the environment variable TEACHER_KEY holds no key"):
            ask(endpoint)
        monkeypatch.setenv("TEACHER_KEY", " \n")
        with pytest.raises(UserError, match="TEACHER_KEY holds no key"):
            ask(endpoint)
        monkeypatch.setenv("TEACHER_KEY", "sk-\x1b")
        with pytest.raises(UserError, match="TEACHER_KEY holds characters that no key has"):
            ask(endpoint)
    assert endpoint.calls == []


def test_an_endpoint_without_keys_gets_none(ask: Asked) -> None:
    with ask.endpoint(key="") as endpoint:
        ((made,),) = ask(endpoint, TEXTS[:1], teacher__api_key_env=None)
    assert made.text


def test_nobody_listens(ask: Asked) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = ask.endpoint()
    endpoint.url = f"http://127.0.0.1:{port}/v1"
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port}/v1 cannot be reached in 3 attempts"):
        ask(endpoint)
    endpoint.url = "http://no-such-host.invalid/v1"
    with pytest.raises(UserError, match=r"no-such-host\.invalid/v1 cannot be reached"):
        ask(endpoint)


def test_a_proxy_is_taken_from_the_environment_and_so_are_its_exceptions(
    ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, proxy)
    with ask.endpoint() as endpoint:
        assert all(isinstance(answer, list) for answer in ask(endpoint))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "")
        with pytest.raises(UserError, match="cannot be reached"):
            ask(endpoint)


def test_a_model_that_the_endpoint_does_not_have(ask: Asked) -> None:
    with ask.endpoint(model="another") as endpoint, pytest.raises(UserError, match="knows no model 'teacher'"):
        ask(endpoint)


def test_an_endpoint_that_is_down_for_long_ends_the_job(ask: Asked) -> None:
    texts = [f"film {i}" for i in range(50)]
    with ask.endpoint(fault=lambda _: error(503)) as endpoint, pytest.raises(UserError, match="8 questions in a row"):
        ask(endpoint, texts, teacher__max_attempts=1, teacher__max_concurrency=1)
    assert len(endpoint.calls) == GIVE_UP_AFTER


def test_no_logprobs_stop_the_job_and_never_become_text(ask: Asked) -> None:
    def bare(call: Call) -> Reply:
        return Reply(body=json.dumps(endpoint.completions(call.path, {"prompt": call.prompt})).encode())

    for api in ("openai", "vllm"):
        with ask.endpoint(fault=bare) as endpoint:
            with pytest.raises(UserError, match=r"set `capture\.mode: text`"):
                ask(endpoint, teacher__api=api)
            # One record alone is a failure of that record.
            endpoint.fault = lambda call: bare(call) if TEXTS[1] in call.prompt else None
            answers = ask(endpoint, teacher__api=api)
        assert [isinstance(answer, Failure) for answer in answers] == [i == 1 for i in range(len(TEXTS))]
        assert "lacks" in answers[1].error or "no logprobs" in answers[1].error


# Which tokenizer


def test_another_tokenizer_is_found_out(ask: Asked, tmp_path: Path) -> None:
    other = byte_level_tokenizer(tmp_path / "other", vocabulary=270)
    for api, sentence in (
        ("openai", "counted .* tokens in a prompt of which"),
        ("vllm", "token 1 of a prompt is number"),
    ):
        with ask.endpoint(tokenizer=other) as endpoint, pytest.raises(UserError, match=sentence) as told:
            ask(endpoint, teacher__api=api)
        assert "does not use the tokenizer" in str(told.value)


def test_another_chat_template_is_found_out(ask: Asked, tmp_path: Path) -> None:
    other = byte_level_tokenizer(tmp_path / "other", template="System prompt.{{ messages[-1]['content'] }}")
    for api in ("openai", "vllm"):
        with ask.endpoint(tokenizer=other) as endpoint, pytest.raises(UserError, match=r"chat template|of a prompt is"):
            ask(endpoint, teacher__api=api, **CHAT_TASK)


def _changed(ask: Asked, change: Callable[[dict[str, Any]], None], **changes: Any) -> list[Any]:
    """Ask an endpoint whose logprobs were changed."""

    def fault(call: Call) -> Reply:
        body = endpoint.completions(call.path, call.body)
        change(body["choices"][0])
        return Reply(body=json.dumps(body).encode())

    with ask.endpoint(fault=fault) as endpoint:
        return ask(endpoint, TEXTS[:1], **changes)


def test_a_token_that_the_tokenizer_does_not_have(ask: Asked) -> None:
    def unknown(choice: dict[str, Any]) -> None:
        choice["logprobs"]["content"][0]["top_logprobs"][1] |= {"token": " wonderful", "bytes": list(b" wonderful")}

    with pytest.raises(UserError, match="it wrote the token ' wonderful', which is not one token"):
        _changed(ask, unknown, **CHAT_TASK)


def test_tokens_that_are_not_the_completion(ask: Asked) -> None:
    def other(choice: dict[str, Any]) -> None:
        choice["text"] = " neutral"

    for api in ("openai", "vllm"):
        with pytest.raises(UserError, match=r"its tokens spell '.*' where the completion has"):
            _changed(ask, other, teacher__api=api)


def test_token_numbers_beyond_the_vocabulary(ask: Asked) -> None:
    def beyond(choice: dict[str, Any]) -> None:
        choice["logprobs"]["top_logprobs"][0]["token_id:5000"] = -3.0

    with pytest.raises(UserError, match="the token number 5000, and the vocabulary has 300"):
        _changed(ask, beyond, teacher__api="vllm", capture__top_k=20)


def test_a_token_whose_bytes_were_lost(ask: Asked) -> None:
    def lost(choice: dict[str, Any]) -> None:
        choice["logprobs"]["content"][0]["top_logprobs"][2] |= {"token": "�", "bytes": list("�".encode())}

    with pytest.raises(UserError, match=r"no answer .* has logprobs that can be used"):
        _changed(ask, lost, **CHAT_TASK)


# Secrets


def test_the_key_is_nowhere(ask: Asked, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    caplog.set_level("DEBUG")
    said = []
    echo = f"you sent Bearer {KEY} and {json.dumps(KEY)} and sk-a-secret%2Fof%2Bthe%3Dtests {'x' * 5000}"
    for status in (400, 403, 404, 500):
        with ask.endpoint(fault=at_text(TEXTS[0], error(status, echo))) as endpoint:
            try:
                said += [str(answer) for answer in ask(endpoint, teacher__max_attempts=2)]
            except UserError as told:
                said.append(str(told))
    with ask.endpoint() as endpoint:
        ask(endpoint, teacher__batch=True, teacher__poll_s=0.01)
    assert any("***" in sentence for sentence in said)
    assert all(len(sentence) < 1000 for sentence in said if "Failure" in sentence)
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 3
    for text in [*said, *written, caplog.text, *capfd.readouterr()]:
        assert "sk-a-secret" not in text


# The pace, and what it costs


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after-ms": "1500", "retry-after": "7"}) == 1.5
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert retry_after({"retry-after": later}) == pytest.approx(90, abs=5)
    assert retry_after({"retry-after": format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True)}) == 0
    assert retry_after({"retry-after": "-3"}) == 0
    assert [retry_after({"retry-after": value}) for value in ("", "soon", "nan", "inf")] == [None] * 4


def test_concurrency_has_its_limit(ask: Asked) -> None:
    texts = [f"film {i}" for i in range(60)]
    with ask.endpoint(delay_s=0.02) as endpoint:
        ask(endpoint, texts, teacher__max_concurrency=6)
    assert 1 < endpoint.most_at_once <= 6


def test_what_was_billed_stands_in_the_ledger(ask: Asked) -> None:
    prices = {"prices__teacher_input": 2.0, "prices__teacher_output": 8.0, "prices__currency": "EUR"}
    with ask.endpoint() as endpoint:
        answers = ask(endpoint, **prices)
    told = ledger(ask.run)
    prompt = sum(len(made.prompt_token_ids) for (made,) in answers)
    completion = sum(len(made.token_ids) - 1 for (made,) in answers)
    assert told == {
        "currency": "EUR",
        "cost": pytest.approx((2 * prompt + 8 * completion) / 1e6),
        "unsettled": 0,
        "price": "list",
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "requests": len(TEXTS),
    }


def test_the_budget_stops_before_it_is_passed_and_goes_on(ask: Asked) -> None:
    prices = {"prices__teacher_input": 0.0, "prices__teacher_output": 1e6}
    with ask.endpoint() as endpoint:
        # One part of six questions may cost 6 x 16, and does cost what the answers' tokens are.
        teacher = ask.teacher(endpoint, capture__budget=150.0, **prices)
        recipe = ask.run.recipe()
        spent, part = 0, 0
        while spent + 6 * 16 <= 150:
            answers = teacher.answer(part, questions(recipe))
            spent += sum(len(made.token_ids) - 1 for (made,) in answers)
            part += 1
        before = len(endpoint.calls)
        with pytest.raises(UserError) as told:
            teacher.answer(part, questions(recipe))
        assert part > 0
        assert f"spent {spent}.00 of 150.00 USD" in str(told.value)
        assert "raise `capture.budget` to go on" in str(told.value)
        assert len(endpoint.calls) == before, "nothing was asked any more"
        assert len(ask.run.storage.list(FOLDER)) == part
        more = ask.teacher(endpoint, capture__budget=300.0, **prices)
        assert len(more.answer(part, questions(recipe))) == len(TEXTS)


def test_what_parts_under_way_leave_over_is_waited_for(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    prices = {"prices__teacher_input": 0.0, "prices__teacher_output": 1e6}
    with ask.endpoint() as endpoint:
        recipe = ask.recipe(endpoint, capture__budget=150.0, **prices)
        account = Account(recipe, ask.run)
        other = Attempt(id="other", batch=False, worst=BilledTokens(completion=100))
        account.reserve("teacher", 7, other)
        waits = []

        def settled(_seconds: float) -> None:
            waits.append(len(endpoint.calls))
            if len(waits) == 3:
                account.settle("teacher", 7, "other", BilledTokens(completion=10), 1)

        monkeypatch.setattr(endpoint_teacher, "time", SimpleNamespace(monotonic=time.monotonic, sleep=settled))
        teacher = EndpointTeacher(recipe, recipe.teacher, ask.run, account)
        assert len(teacher.answer(0, questions(recipe))) == len(TEXTS)
        # Whatever others leave over would not be enough.
        poor = ask.recipe(endpoint, capture__budget=95.0, **prices)
        account = Account(poor, Run.open(f"{ask.run.uri}-poor"))
        account.reserve("teacher", 7, Attempt(id="other", batch=False, worst=BilledTokens(completion=1)))
        with pytest.raises(UserError, match=r"1\.00 are set aside for parts under way"):
            EndpointTeacher(poor, poor.teacher, ask.run, account).answer(1, questions(poor))
    assert waits == [0, 0, 0]


def test_a_request_that_timed_out_may_have_been_billed(ask: Asked) -> None:
    prices = {"prices__teacher_output": 1e6}
    hang = {"teacher__timeout_s": 0.3, "teacher__max_attempts": 2, "teacher__max_concurrency": 1}
    with ask.endpoint(fault=only_first(Reply(hang_s=60))) as endpoint:
        ((made,),) = ask(endpoint, TEXTS[:1], **prices, **hang)
    assert ledger(ask.run)["completion_tokens"] == len(made.token_ids) - 1 + 16


def test_a_refused_request_is_not_billed(ask: Asked) -> None:
    with ask.endpoint(fault=lambda _: error(400)) as endpoint:
        assert all(isinstance(answer, Failure) for answer in ask(endpoint))
    assert ledger(ask.run)["prompt_tokens"] == 0
