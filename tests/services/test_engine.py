"""What goes to vLLM, and what is read from its replies (recorded from vLLM 0.32)."""

import asyncio
from typing import Any

import pytest

from services.gateway.engine import EngineFailed, EngineRefused, Question, ServeEngine, Usage, generation, request_body
from stillhouse.confidence import Evidence
from stillhouse.task import Prompt

USAGE = {"prompt_tokens": 13, "total_tokens": 15, "completion_tokens": 2}
COMPLETION: dict[str, Any] = {
    "id": "cmpl-1",
    "object": "text_completion",
    "choices": [
        {
            "index": 0,
            "text": " positive",
            "finish_reason": "stop",
            "logprobs": {
                "text_offset": [0, 9],
                "tokens": [" positive", "<|im_end|>"],
                "token_logprobs": [-0.68, 0.0],
                "top_logprobs": [{" ": -0.93, " positive": -0.68}, {"<|im_end|>": 0.0}],
            },
        }
    ],
    "usage": USAGE,
}
CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "negative"},
            "finish_reason": "stop",
            "logprobs": {
                "content": [
                    {
                        "token": "negative",
                        "logprob": -0.57,
                        "bytes": [110],
                        "top_logprobs": [{"token": "negative", "logprob": -0.57, "bytes": [110]}],
                    },
                    {"token": "<|im_end|>", "logprob": 0.0, "bytes": [60], "top_logprobs": []},
                ]
            },
        }
    ],
    "usage": USAGE,
}
TOO_LONG = {
    "message": "This model's maximum context length is 512 tokens. However, your prompt contains at least 513.",
    "type": "BadRequestError",
    "param": "input_tokens",
    "code": 400,
}


def test_a_plain_prompt_is_a_completion_with_logprobs() -> None:
    question = Question(Prompt(text="Review: x"), {"temperature": 0.0, "max_tokens": 4})
    path, body = request_body("reviews-student", question)
    assert path == "completions"
    assert body["model"] == "reviews-student"
    assert body["prompt"] == "Review: x"
    assert body["logprobs"] == 0
    assert (body["temperature"], body["max_tokens"]) == (0.0, 4)


def test_messages_are_a_chat_with_logprobs() -> None:
    messages = ({"role": "user", "content": "hello"},)
    path, body = request_body("reviews-student", Question(Prompt(messages=messages), top_logprobs=3))
    assert path == "chat"
    assert body["messages"] == list(messages)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 3)


def test_a_models_own_sampling_defaults_are_overruled_but_not_the_clients() -> None:
    _, body = request_body("m", Question(Prompt(text="x"), {"top_p": 0.5}))
    assert body["repetition_penalty"] == 1.0
    assert body["top_p"] == 0.5


def test_reads_a_completion() -> None:
    found = generation("completions", COMPLETION)
    assert (found.text, found.finish_reason, found.usage) == (" positive", "stop", Usage(13, 2))
    assert found.evidence(0) == Evidence.of([-0.68, 0.0])
    assert found.evidence(2) == Evidence.of([-0.68, 0.0], [[-0.68, -0.93], [0.0]])
    assert found.tokens[0].top == ((" positive", -0.68), (" ", -0.93)), "in rank order, whatever the dict's"


def test_reads_a_chat() -> None:
    found = generation("chat", CHAT)
    assert (found.text, found.usage) == ("negative", Usage(13, 2))
    assert found.evidence(0) == Evidence.of([-0.57, 0.0])
    with pytest.raises(ValueError, match="Token 1 comes without its alternatives"):
        found.evidence(1)
    assert found.tokens[0].top == (("negative", -0.57),)


def test_missing_logprobs_are_read_as_none_at_all() -> None:
    silent = {**COMPLETION, "choices": [{**COMPLETION["choices"][0], "logprobs": None}]}
    assert generation("completions", silent).tokens == ()


def test_a_prompt_that_is_too_long_is_refused() -> None:
    with pytest.raises(EngineRefused, match="maximum context length") as refusal:
        generation("chat", {"error": TOO_LONG})
    assert refusal.value.too_long
    assert refusal.value.param is None


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"choices": []},
        {**COMPLETION, "usage": None},
        {**COMPLETION, "choices": COMPLETION["choices"] * 2},
        {"error": {"message": "out of memory", "code": 500}},
        {"error": {"message": "the model does not exist", "code": 404}},
    ],
    ids=["empty", "no choice", "no usage", "two choices", "error 500", "error 404"],
)
def test_garbage_is_a_failure(reply: dict[str, Any]) -> None:
    with pytest.raises(EngineFailed):
        generation("completions", reply)


class _Response:
    """A Serve response that raises, or that never comes."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.cancelled = False

    def __await__(self) -> Any:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        if self.error:
            raise self.error
        await asyncio.Event().wait()

    def cancel(self) -> None:
        self.cancelled = True


class _Handle:
    def __init__(self, error: Exception | None = None) -> None:
        self.response = _Response(error)
        self.ask = self.check_health = self

    def remote(self, *_: Any) -> _Response:
        return self.response


def test_whatever_breaks_in_the_replica_is_a_failure() -> None:
    engine = ServeEngine(_Handle(RuntimeError("the actor died\nand more")), "reviews-student")  # type: ignore[arg-type]
    with pytest.raises(EngineFailed, match=r"reviews-student failed: the actor died$"):
        asyncio.run(engine.ask(Question(Prompt(text="x"))))
    assert asyncio.run(engine.healthy()) is False


def test_giving_up_cancels_the_request_in_the_replica() -> None:
    handle = _Handle()

    async def give_up() -> None:
        async with asyncio.timeout(0.01):
            await ServeEngine(handle, "m").ask(Question(Prompt(text="x")))  # type: ignore[arg-type]

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    assert handle.response.cancelled
