"""A model behind a chat endpoint, asked with logprobs: what goes there, and what is read from its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillhouse.confidence import Evidence
from stillhouse.endpoint.client import LONGEST_WAIT_S, Endpoint, Sent, Settings
from stillhouse.endpoint.errors import Refused, Unsupported
from stillhouse.errors import UserError
from stillhouse.recipe import Task
from stillhouse.task import Prompt, chat_messages

CHAT = "/chat/completions"

_PARAMETERS = ("temperature", "top_p", "seed", "stop")
"""What OpenAI's API knows of vLLM's parameters by the same name; `max_tokens` has two names."""

_LOGPROBS = {"logprobs", "top_logprobs"}


class Silent(UserError):
    """The endpoint tells no logprobs, so that no answer has a confidence."""


@dataclass(frozen=True)
class ChatToken:
    """One token of an answer: its text, its natural-log probability, and the likeliest tokens in rank order."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class ChatAnswer:
    """A whole answer.

    Attributes:
        tokens: that spell the text, perhaps with the end of the sequence; empty where the endpoint told no logprobs, or
            logprobs of another text.
        prompt_tokens, completion_tokens: as they were billed.
    """

    text: str
    finish_reason: str
    tokens: tuple[ChatToken, ...]
    prompt_tokens: int
    completion_tokens: int

    @property
    def evidence(self) -> Evidence | None:
        """What a confidence is made from; None where logprobs are missing or broken."""
        try:
            return Evidence.of([token.logprob for token in self.tokens])
        except (ValueError, TypeError):
            return None


class ChatModel:
    """A model at an endpoint. Made where it is used, since neither its key nor its connections are pickled.

    Args:
        section: where the recipe says how it is asked, for errors.
        model: the endpoint's name of it.
        task: whose answers it gives, asked as the model was trained to be.
        patience_s: longest `Retry-After` that is waited for, in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        url: str,
        *,
        section: str,
        model: str,
        task: Task,
        patience_s: float = LONGEST_WAIT_S,
    ) -> None:
        """Raises `UserError` where the key is not in the environment."""
        self.endpoint = Endpoint(settings, url, section=section, model=model, patience_s=patience_s)
        self.model = model
        self._format = response_format(task)
        self._limit = "max_tokens"

    async def ask(self, prompt: Prompt, parameters: Mapping[str, Any], *, top_logprobs: int = 0) -> ChatAnswer:
        """One answer, drawn with `parameters` in vLLM's names; constraints that the API does not know are left out.

        Raises:
            Refused: the endpoint does not answer this prompt.
            Silent: it tells no logprobs.
            UserError: it answers nothing.
        """
        while True:
            limit = self._limit
            body = self._body(prompt, parameters, top_logprobs)
            try:
                return read_answer(await self.endpoint.post(CHAT, body, Sent()))
            except Unsupported as error:
                if error.parameter in _LOGPROBS:
                    raise Silent(f"{self.model} at {self.endpoint.url} tells no logprobs ({error})") from None
                if error.parameter != "max_tokens" or limit != "max_tokens":
                    raise
                # The name that OpenAI's newer models insist on, and older servers do not know.
                self._limit = "max_completion_tokens"

    async def known(self, limit_s: float) -> bool:
        """Whether the endpoint answers within `limit_s` seconds, and has the model."""
        try:
            async with asyncio.timeout(limit_s):
                await self.endpoint.client.models.retrieve(self.model)
        except Exception:
            return False
        return True

    def _body(self, prompt: Prompt, parameters: Mapping[str, Any], top_logprobs: int) -> dict[str, Any]:
        drawn = {name: parameters[name] for name in _PARAMETERS if parameters.get(name) is not None}
        return {
            "model": self.model,
            "messages": chat_messages(prompt),
            "logprobs": True,
            **({"top_logprobs": top_logprobs} if top_logprobs else {}),
            **({"response_format": self._format} if self._format else {}),
            **({self._limit: parameters["max_tokens"]} if "max_tokens" in parameters else {}),
            **drawn,
        }


def response_format(task: Task) -> dict[str, Any] | None:
    """What OpenAI's API holds an answer to; there is nothing for `choices`, which the model has to keep by itself."""
    if task.json_schema is None:
        return None
    schema = {"name": "answer", "schema": task.json_schema, "strict": is_strict(task.json_schema)}
    return {"type": "json_schema", "json_schema": schema}


def is_strict(schema: Any) -> bool:
    """Whether OpenAI can hold an answer to a schema: every object in it closed, and all its properties required."""
    if isinstance(schema, list):
        return all(is_strict(part) for part in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        closed = schema.get("additionalProperties") is False
        if not closed or set(schema.get("properties", {})) != set(schema.get("required", ())):
            return False
    return all(is_strict(part) for part in schema.values())


def read_answer(reply: Mapping[str, Any]) -> ChatAnswer:
    """The one answer in a chat's reply. Raises `Refused` where there is none."""
    try:
        (choice,) = reply["choices"]
        message, stopped, billed = choice["message"], choice["finish_reason"], reply["usage"]
        if message.get("refusal"):
            raise Refused("the model refused to answer")
        if stopped not in ("stop", "length"):
            raise Refused(f"the endpoint ended the answer for another reason than its end: {str(stopped)[:40]!r}")
        text = message["content"]
        if not isinstance(text, str):
            raise Refused("the endpoint's answer holds no text")
        entries = (choice.get("logprobs") or {}).get("content") or ()
        return ChatAnswer(
            text=text,
            finish_reason=stopped,
            tokens=tuple(_tokens(entries)) if _spell(entries, text) else (),
            prompt_tokens=int(billed["prompt_tokens"]),
            completion_tokens=int(billed["completion_tokens"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(f"the endpoint's answer has not the shape of a chat ({type(error).__name__})") from None


def token_bytes(entry: Mapping[str, Any]) -> bytes:
    """What a token spells; without `bytes`, what its name says."""
    told = entry.get("bytes")
    return bytes(told) if told is not None else str(entry["token"]).encode()


def _tokens(entries: Sequence[Mapping[str, Any]]) -> Iterator[ChatToken]:
    for entry in entries:
        top = sorted(((t["token"], t["logprob"]) for t in entry.get("top_logprobs") or ()), key=lambda t: -t[1])
        yield ChatToken(entry["token"], entry["logprob"], tuple(top))


def _spell(entries: Sequence[Mapping[str, Any]], text: str) -> bool:
    """Whether the tokens are those of the whole text; vLLM's have the end of the sequence after it."""
    spelled = [token_bytes(entry) for entry in entries]
    return any(b"".join(part).decode(errors="replace") == text for part in (spelled, spelled[:-1]))
