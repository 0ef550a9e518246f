"""What an endpoint is asked for one question, in OpenAI's words and in vLLM's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ray_jobs.capture.teacher import Question
from stillhouse.cost.billing import BilledTokens
from stillhouse.endpoint.chat import CHAT, response_format
from stillhouse.recipe import Recipe, Task, Teacher
from stillhouse.task import NEUTRAL_SAMPLING, Prompt, decoding, sampling, structured_outputs, token_ids

COMPLETIONS = "/completions"

_TOKENS_A_MESSAGE, _TOKENS_A_CHAT = 16, 64
"""More than chat templates put around a message, and before all of them: some bring a system prompt of their own."""


@dataclass(frozen=True)
class Request:
    """One question as it is sent.

    Attributes:
        path: below the endpoint's base address.
        body: the request's JSON.
        prompt_token_ids: the prompt in the tokenizer that the capture stores.
        worst: the most that an answer can cost.
    """

    path: str
    body: dict[str, Any]
    prompt_token_ids: list[int]
    worst: BilledTokens


class Requests:
    """Makes the requests of one capture.

    Args:
        tokenizer: the one whose ids the capture stores: the endpoint's own where there is to be signal, else the
            student's.
        own: whether it is the endpoint's own.
    """

    def __init__(self, recipe: Recipe, teacher: Teacher, tokenizer: Any, *, own: bool) -> None:
        self._recipe, self._teacher, self._tokenizer, self._own = recipe, teacher, tokenizer, own
        self.path = CHAT if recipe.task.messages is not None else COMPLETIONS
        # The Batch API is OpenAI's, whose newer models take the newer name alone.
        self._limit = "max_completion_tokens" if teacher.batch and self.path == CHAT else "max_tokens"
        self._shared = dict(self._settings())

    def of(self, question: Question) -> Request:
        """The request of a question. Raises `UserError` where the tokenizer has no chat template for it."""
        task, capture = self._recipe.task, self._recipe.capture
        ids = token_ids(question.prompt, self._tokenizer)
        body = {**self._shared, self._limit: task.max_tokens, **_asked(question.prompt)}
        if task.temperature:
            body["seed"] = question.seed
        worst = BilledTokens(
            prompt=len(ids) if self._own else _most_tokens(question.prompt), completion=capture.n * task.max_tokens
        )
        return Request(self.path, body, ids, worst)

    def mend(self, parameter: str) -> bool:
        """Say a parameter that the endpoint does not take in another way; whether there is one."""
        if parameter != "max_tokens" or self.path != CHAT:
            return False
        # The name that OpenAI's newer models insist on, and older servers do not know.
        self._limit = "max_completion_tokens"
        return True

    def _settings(self) -> Iterator[tuple[str, Any]]:
        task, capture = self._recipe.task, self._recipe.capture
        yield "model", self._teacher.model
        yield from self._drawn(task)
        if capture.n > 1:
            yield "n", capture.n
        if capture.mode == "topk":
            if self.path == CHAT:
                yield from {"logprobs": True, "top_logprobs": capture.top_k}.items()
            else:
                yield "logprobs", capture.top_k

    def _drawn(self, task: Task) -> Iterator[tuple[str, Any]]:
        drawn = sampling(task)
        drawn.pop("max_tokens")  # it has two names
        if self._teacher.api == "vllm":
            yield from NEUTRAL_SAMPLING.items()
            constraint = (
                decoding(task, self._tokenizer) if self._own else {"structured_outputs": structured_outputs(task)}
            )
            for name in ("structured_outputs", "allowed_token_ids"):
                if constraint.get(name):
                    yield name, constraint[name]
            yield "return_token_ids", self._own
            yield "return_tokens_as_token_ids", self._own
        elif self.path == CHAT and (wanted := response_format(task)):
            yield "response_format", wanted
        yield from drawn.items()


def _asked(prompt: Prompt) -> dict[str, Any]:
    if prompt.text is not None:
        return {"prompt": prompt.text}
    return {"messages": list(prompt.messages or ())}


def _most_tokens(prompt: Prompt) -> int:
    """No tokenizer makes more tokens of a text than it has bytes."""
    if prompt.text is not None:
        return len(prompt.text.encode()) + 1
    return _TOKENS_A_CHAT + sum(len(str(m["content"]).encode()) + _TOKENS_A_MESSAGE for m in prompt.messages or ())
