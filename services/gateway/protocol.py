"""OpenAI's protocol: the requests that are taken, and the errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MAX_BODY_BYTES = 4 << 20
"""Largest request body, in bytes: room for the longest prompts, and a bound on what a client makes us hold."""

RETRY_AFTER_S = 5
"""What a 503 tells the client to wait, in seconds."""

_MAX_MESSAGES = 2048


class ApiError(Exception):
    """An error that goes to the client, in OpenAI's shape."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """The response's JSON."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        return {"retry-after": str(RETRY_AFTER_S)} if self.status == 503 else {}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class TextPart(_Body):
    """A part of a message's content; text is all that is read."""

    type: Literal["text"]
    text: str


class ChatMessage(_Body):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None


class StreamOptions(_Body):
    """What a stream carries beside the answer."""

    include_usage: bool = False


class _Request(_Body):
    """What chat and plain completions have in common: everything here is honoured, and nothing else is taken."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    n: Literal[1] | None = None

    @model_validator(mode="after")
    def _options_go_with_streams(self) -> _Request:
        if self.stream_options is not None and not self.stream:
            raise ValueError("`stream_options` goes with `stream: true`")
        return self

    def parameters(self) -> dict[str, Any]:
        """What the client set about sampling, as vLLM's request fields."""
        given = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": self.stop,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with what it cost."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=_MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("`top_logprobs` goes with `logprobs: true`")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("`max_tokens` and `max_completion_tokens` mean the same: give one of them")
        return self

    def parameters(self) -> dict[str, Any]:
        """As `_Request.parameters`."""
        limit = {"max_tokens": self.max_completion_tokens} if self.max_completion_tokens is not None else {}
        return super().parameters() | limit

    @property
    def wanted_logprobs(self) -> int | None:
        """How many of the likeliest tokens the client wants at each position; None for no logprobs at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_Request):
    """POST /v1/completions."""

    prompt: Annotated[str, Field(min_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def wanted_logprobs(self) -> int | None:
        """As `ChatRequest.wanted_logprobs`."""
        return self.logprobs


_R = TypeVar("_R", bound=_Request)


def parse(model: type[_R], raw: bytes) -> _R:
    """Read a request's body.

    Raises:
        ApiError: 400; it names the parameter that is wrong, or that is not supported.
    """
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"] if _in_request(part))
    if problem["type"] == "json_invalid":
        raise ApiError(400, f"the body is not JSON: {problem['msg'].removeprefix('Invalid JSON: ')}")
    if problem["type"] == "extra_forbidden":
        raise ApiError(400, f"the parameter `{where}` is not supported", param=where, code="unsupported_parameter")
    if problem["type"] == "missing":
        raise ApiError(400, f"the parameter `{where}` is required", param=where, code="missing_required_parameter")
    message = problem["msg"].removeprefix("Value error, ")
    if not where:
        raise ApiError(400, message)
    raise ApiError(400, f"the parameter `{where}` is wrong: {message[0].lower()}{message[1:]}", param=where)


def _in_request(part: str | int) -> bool:
    """Whether a step of pydantic's path is a place in the request, not a branch of a union of types."""
    return isinstance(part, int) or (part.islower() and part.isidentifier() and part not in {"str", "float", "int"})
