"""OpenAI's response shapes, made from a decision."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from services.gateway.engine import Token, Usage


@dataclass(frozen=True)
class Reply:
    """An answer that is ready to go out.

    Attributes:
        model: the model that really answered.
        tokens: with their logprobs; None where the client asked for none.
        top_logprobs: how many of the likeliest tokens the client wants at each position.
    """

    chat: bool
    model: str
    text: str
    finish_reason: str
    usage: Usage
    tokens: tuple[Token, ...] | None = None
    top_logprobs: int = 0
    created: int = field(default_factory=lambda: int(time.time()))
    key: str = field(default_factory=lambda: uuid.uuid4().hex)


def whole(reply: Reply) -> dict[str, Any]:
    """The body of a response that is not streamed."""
    message = {"role": "assistant", "content": reply.text, "refusal": None}
    content: dict[str, Any] = {"message": message} if reply.chat else {"text": reply.text}
    choice = {"index": 0, **content, "logprobs": _logprobs(reply), "finish_reason": reply.finish_reason}
    return {**_head(reply, "chat.completion"), "choices": [choice], "usage": _usage(reply.usage)}


def events(reply: Reply, *, include_usage: bool) -> Iterator[bytes]:
    """The same answer as server-sent events; the decision stands, so that nothing in it is ever taken back."""
    # OpenAI sends `usage: null` in every chunk but the last where usage is asked for.
    head = _head(reply, "chat.completion.chunk") | ({"usage": None} if include_usage else {})

    def event(delta: dict[str, Any], *, logprobs: Any = None, finish_reason: str | None = None) -> bytes:
        content = {"delta": delta} if reply.chat else {"text": delta.get("content", "")}
        choice = {"index": 0, **content, "logprobs": logprobs, "finish_reason": finish_reason}
        return _event({**head, "choices": [choice]})

    if reply.chat:
        yield event({"role": "assistant", "content": ""})
    if reply.tokens is not None:
        # Tokens need not end where characters do: with logprobs the text goes out in one piece.
        yield event({"content": reply.text}, logprobs=_logprobs(reply))
    else:
        for piece in re.findall(r"\s*\S+|\s+$", reply.text):
            yield event({"content": piece})
    yield event({}, finish_reason=reply.finish_reason)
    if include_usage:
        yield _event({**head, "choices": [], "usage": _usage(reply.usage)})
    yield b"data: [DONE]\n\n"


def models(name: str) -> list[dict[str, Any]]:
    """The models on offer: the cascade, and its two parts by name."""
    return [{"id": model, "object": "model", "created": 0, "owned_by": "stillhouse"} for model in names(name)]


def names(name: str) -> tuple[str, str, str]:
    """The names of the cascade, the student and the teacher."""
    return name, f"{name}-student", f"{name}-teacher"


def _head(reply: Reply, kind: str) -> dict[str, Any]:
    if not reply.chat:
        return {"id": f"cmpl-{reply.key}", "object": "text_completion", "created": reply.created, "model": reply.model}
    return {"id": f"chatcmpl-{reply.key}", "object": kind, "created": reply.created, "model": reply.model}


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _logprobs(reply: Reply) -> dict[str, Any] | None:
    if reply.tokens is None:
        return None
    if reply.chat:
        return {"content": [_chat_token(token, reply.top_logprobs) for token in reply.tokens], "refusal": None}
    top = [dict(token.top[: reply.top_logprobs]) for token in reply.tokens] if reply.top_logprobs else None
    offsets, offset = [], 0
    for token in reply.tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in reply.tokens],
        "token_logprobs": [token.logprob for token in reply.tokens],
        "top_logprobs": top,
        "text_offset": offsets,
    }


def _chat_token(token: Token, top: int) -> dict[str, Any]:
    return {**_entry(token.text, token.logprob), "top_logprobs": [_entry(*other) for other in token.top[:top]]}


def _entry(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n\n"
