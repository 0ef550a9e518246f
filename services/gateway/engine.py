"""An engine as the gateway sees it: one question, one whole answer with its logprobs and what it cost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from stillhouse.confidence import Evidence
from stillhouse.task import NEUTRAL_SAMPLING, Prompt

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)

Path = Literal["chat", "completions"]

_LENGTHS = {"input_tokens", "input_text"}
"""What vLLM names as the parameter where the prompt is too long."""

HEALTH_TIMEOUT_S = 5.0
"""Longest wait for an engine to say that it is well, in seconds."""


@dataclass(frozen=True)
class Usage:
    """Tokens that an answer cost."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True)
class Token:
    """One generated token: its text, its natural-log probability, and the likeliest tokens in rank order."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Question:
    """What an engine is asked: the prompt, vLLM's request fields, and how many of the likeliest tokens to name.

    `calibrated` says whether the answer is drawn as the policy was calibrated with, so that its confidence counts.
    """

    prompt: Prompt
    parameters: Mapping[str, Any] = field(default_factory=dict)
    top_logprobs: int = 0
    calibrated: bool = True


@dataclass(frozen=True)
class Generation:
    """A whole answer; `tokens` has the end of the sequence too, where the engine reports it.

    `spelled` says that the tokens were seen to spell the whole text, where their number is not the one that is billed.
    """

    text: str
    finish_reason: str
    tokens: tuple[Token, ...]
    usage: Usage
    spelled: bool = False

    def evidence(self, alternatives: int) -> Evidence:
        """What the student's confidence is made from, with the likeliest `alternatives` tokens at each position.

        Raises ValueError or TypeError where logprobs are missing or broken.
        """
        logprobs = [token.logprob for token in self.tokens]
        # A reply may name more: what the client asked for, or the written token beside the likeliest.
        top = [[logprob for _, logprob in token.top[:alternatives]] for token in self.tokens]
        return Evidence.of(logprobs, top if alternatives else None)


class EngineFailed(Exception):
    """The engine is gone, broken or too slow: another one may answer."""


class EngineRefused(Exception):
    """The engine will not take this request: the client has to mend it.

    `param` is the request field at fault, None where that is the prompt.
    """

    def __init__(self, message: str, *, param: str | None = None, too_long: bool = False) -> None:
        super().__init__(message)
        self.param = param
        self.too_long = too_long


class Engine(Protocol):
    """A model that answers."""

    async def ask(self, question: Question) -> Generation:
        """The whole answer. Raises `EngineRefused` or `EngineFailed`, and nothing else but cancellation."""

    async def healthy(self) -> bool:
        """Whether it can answer now."""


class ServeEngine:
    """A `VLLMServer` deployment behind its Serve handle."""

    def __init__(self, handle: DeploymentHandle[Any], model_id: str) -> None:
        self._handle = handle
        self._model_id = model_id

    async def ask(self, question: Question) -> Generation:
        """See `Engine.ask`. Cancelling it aborts the generation in the engine."""
        path, body = request_body(self._model_id, question)
        response = self._handle.ask.remote(path, body)
        try:
            reply = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:
            raise EngineFailed(f"{self._model_id} failed: {_first_line(error)}") from error
        return generation(path, reply)

    async def healthy(self) -> bool:
        """Whether a replica of it is up and says so in time."""
        response = self._handle.check_health.remote()
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                await response
        except Exception as error:
            response.cancel()
            logger.warning("%s is not ready: %s", self._model_id, _first_line(error))
            return False
        return True


def request_body(model_id: str, question: Question) -> tuple[Path, dict[str, Any]]:
    """The engine's path for a question, and vLLM's request for it."""
    body = {"model": model_id, **NEUTRAL_SAMPLING, **question.parameters}
    if question.prompt.text is not None:
        # 0 still gives the logprob of each generated token.
        return "completions", {**body, "prompt": question.prompt.text, "logprobs": question.top_logprobs}
    messages = list(question.prompt.messages or ())
    return "chat", {**body, "messages": messages, "logprobs": True, "top_logprobs": question.top_logprobs}


def generation(path: Path, reply: Mapping[str, Any]) -> Generation:
    """Read vLLM's reply.

    Raises:
        EngineRefused: it is an error that the client has to mend.
        EngineFailed: it is another error, or not an answer at all.
    """
    if (error := reply.get("error")) is not None:
        message, status = str(error.get("message")), error.get("code")
        if status in (400, 413, 422):
            param = error.get("param")
            too_long = param in _LENGTHS or "maximum context length" in message
            raise EngineRefused(message, param=None if too_long else param, too_long=too_long)
        raise EngineFailed(f"the engine answered {status}: {message}")
    try:
        (choice,) = reply["choices"]
        text = choice["message"]["content"] if path == "chat" else choice["text"]
        logprobs = choice["logprobs"] or {}
        return Generation(
            text=text or "",
            finish_reason=choice["finish_reason"],
            tokens=_chat_tokens(logprobs) if path == "chat" else _completion_tokens(logprobs),
            usage=Usage(reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EngineFailed(f"the engine's reply is not an answer: {error!r}") from error


def _chat_tokens(logprobs: Mapping[str, Any]) -> tuple[Token, ...]:
    return tuple(
        Token(
            text=entry["token"],
            logprob=entry["logprob"],
            top=_ranked([(other["token"], other["logprob"]) for other in entry.get("top_logprobs") or ()]),
        )
        for entry in logprobs.get("content") or ()
    )


def _completion_tokens(logprobs: Mapping[str, Any]) -> tuple[Token, ...]:
    texts, values = logprobs.get("tokens") or (), logprobs.get("token_logprobs") or ()
    tops = logprobs.get("top_logprobs") or [None] * len(texts)
    return tuple(
        Token(text=text, logprob=logprob, top=_ranked(list((top or {}).items())))
        for text, logprob, top in zip(texts, values, tops, strict=True)
    )


def _ranked(top: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(top, key=lambda entry: -entry[1]))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
