"""The routes: requests in, a decision, OpenAI's responses out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from services.gateway import responses
from services.gateway.cascade import Cascade, Decision, NobodyAnswers
from services.gateway.engine import EngineRefused, Question
from services.gateway.metrics import Metrics
from services.gateway.protocol import MAX_BODY_BYTES, ApiError, ChatRequest, CompletionRequest, parse
from stillhouse.errors import UserError
from stillhouse.recipe import Task
from stillhouse.task import NEUTRAL_SAMPLING, Prompt, prompt_from_chat

logger = logging.getLogger(__name__)

_SHAPE_CONFIDENCE = ("temperature", "top_p", "stop")
"""Request parameters that change the probability of an answer, or where it ends."""


def make_app(name: str, task: Task, cascade: Cascade, decoding: Mapping[str, Any]) -> FastAPI:
    """The endpoint as an ASGI application.

    Args:
        name: the cascade's model name.
        decoding: how answers are drawn unless the client says otherwise, as the policy was calibrated with.
    """
    app = FastAPI(title="stillhouse", docs_url=None, redoc_url=None, openapi_url=None)
    metrics = Metrics()
    endpoint = _Endpoint(name, task, cascade, decoding, metrics)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await endpoint.answer(request, ChatRequest)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await endpoint.answer(request, CompletionRequest)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": responses.models(name)}

    @app.get("/v1/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        endpoint.only(model)
        return next(card for card in responses.models(name) if card["id"] == model)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        ready = await cascade.ready()
        # One engine is enough for an answer: the teacher's, or the student's as `degraded`.
        return JSONResponse(ready, status_code=200 if any(ready.values()) else 503)

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.render(), media_type=metrics.content_type)

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), status_code=error.status, headers=error.headers())

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        found = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
        return JSONResponse(found.body(), status_code=found.status, headers=error.headers)

    @app.exception_handler(Exception)
    async def own_error(_: Request, error: Exception) -> JSONResponse:
        metrics.refused(500)
        return JSONResponse(ApiError(500, "the gateway failed; its log says how").body(), status_code=500)

    return app


class _Endpoint:
    """From a request's body to a response."""

    def __init__(self, name: str, task: Task, cascade: Cascade, decoding: Mapping[str, Any], metrics: Metrics) -> None:
        self._cascade_name, self._student_name, self._teacher_name = responses.names(name)
        self._task = task
        self._cascade = cascade
        self._decoding = decoding
        self._metrics = metrics

    def only(self, model: str) -> Literal["student", "teacher"] | None:
        """The route that a model's name fixes. Raises `ApiError` 404 for an unknown model."""
        if model == self._cascade_name:
            return None
        if model == self._student_name:
            return "student"
        if model == self._teacher_name:
            return "teacher"
        offered = f"{self._cascade_name}, {self._student_name} and {self._teacher_name}"
        message = f"the model {model!r} does not exist: there are {offered}"
        raise ApiError(404, message, param="model", code="model_not_found")

    async def answer(self, request: Request, kind: type[ChatRequest] | type[CompletionRequest]) -> Response:
        """Read, decide, and respond."""
        began = time.perf_counter()
        try:
            body = parse(kind, await _read(request))
            decision = await self._decide(body)
        except ApiError as error:
            self._metrics.refused(error.status)
            raise
        seconds = time.perf_counter() - began
        self._metrics.answered(decision.route, seconds)
        # The prompt and the answer are in no log; Serve puts the request's id before each line.
        logger.info(
            "route=%s why=%r confidence=%s seconds=%.3f",
            decision.route,
            decision.why,
            decision.confidence,
            seconds,
        )
        reply = self._reply(body, decision)
        headers: dict[str, str] = {"x-stillhouse-route": decision.route}
        if decision.confidence is not None:
            headers["x-stillhouse-confidence"] = f"{decision.confidence:.6f}"
        if not body.stream:
            return JSONResponse(responses.whole(reply), headers=headers)
        stream = responses.events(reply, include_usage=body.include_usage)
        headers["cache-control"] = "no-cache"
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    async def _decide(self, body: ChatRequest | CompletionRequest) -> Decision:
        only = self.only(body.model)
        question = Question(
            prompt=self._prompt(body),
            parameters={**self._decoding, **body.parameters()},
            top_logprobs=body.wanted_logprobs or 0,
            calibrated=self._calibrated(body.parameters()),
        )
        try:
            return await self._cascade.decide(question, only)
        except EngineRefused as error:
            param = error.param or ("messages" if isinstance(body, ChatRequest) else "prompt")
            code = "context_length_exceeded" if error.too_long else None
            raise ApiError(400, str(error), param=param, code=code) from error
        except NobodyAnswers as error:
            logger.error("nobody answers: %s", error)
            raise ApiError(503, "neither student nor teacher can answer now: try again later") from error

    def _calibrated(self, given: Mapping[str, Any]) -> bool:
        """Whether what the client set leaves the confidence comparable: a low temperature makes any answer sure."""
        usual = NEUTRAL_SAMPLING | dict(self._decoding)
        if any((given.get(name, usual.get(name)) or None) != (usual.get(name) or None) for name in _SHAPE_CONFIDENCE):
            return False
        # A text cut short is likelier than the whole; a choice or an object cut short breaks the contract.
        return self._task.kind != "text" or given.get("max_tokens", math.inf) >= usual["max_tokens"]

    def _prompt(self, body: ChatRequest | CompletionRequest) -> Prompt:
        if isinstance(body, CompletionRequest):
            return Prompt(text=body.prompt)
        messages = [message.model_dump(exclude_none=True) for message in body.messages]
        try:
            return prompt_from_chat(self._task, messages)
        except UserError as error:
            raise ApiError(400, str(error), param="messages") from error

    def _reply(self, body: ChatRequest | CompletionRequest, decision: Decision) -> responses.Reply:
        found, chat = decision.generation, isinstance(body, ChatRequest)
        # The space before a plain prompt's completion belongs to the prompt's form, not to a chat's message.
        text = found.text.strip() if chat and self._task.prompt is not None else found.text
        return responses.Reply(
            chat=chat,
            model=self._teacher_name if decision.route == "teacher" else self._student_name,
            text=text,
            finish_reason=found.finish_reason,
            usage=decision.usage,
            tokens=None if body.wanted_logprobs is None else found.tokens,
            top_logprobs=body.wanted_logprobs or 0,
        )


async def _read(request: Request) -> bytes:
    """The body, as long as it is no longer than allowed. Raises `ApiError` 413."""
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise ApiError(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)
