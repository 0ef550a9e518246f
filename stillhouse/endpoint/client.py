"""Requests to an OpenAI-compatible endpoint: sent again where that helps, and told in a sentence where it does not."""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar
from urllib.parse import quote

import httpx2
import openai

from stillhouse.endpoint.errors import Refused, Rejected, Unanswered, Unsupported
from stillhouse.endpoint.pace import Pace
from stillhouse.errors import UserError

LONGEST_WAIT_S = 900.0
"""A `Retry-After` beyond it ends the job, which can be started again then."""

_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.5, 60.0
_LONGEST_QUOTE = 300
_TIMED = 1_000
_UNSUPPORTED = {"unsupported_parameter", "unsupported_value", "unknown_parameter"}
_SAME_FOR_ALL = {"response_format", "logprobs", "top_logprobs", "n", "seed", "stop", "temperature", "top_p", "model"}
"""Parameters that no record can be blamed for."""

_SPENT = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}

T = TypeVar("T")


class Settings(Protocol):
    """What a recipe says of an endpoint; `teacher` and `student.openai` are such."""

    @property
    def model(self) -> str: ...
    @property
    def api_key_env(self) -> str | None: ...
    @property
    def max_concurrency(self) -> int: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def poll_s(self) -> float: ...


class _Busy(Exception):
    """Another attempt may help."""

    def __init__(self, sentence: str, *, retry_after: float | None = None, unreachable: bool = False) -> None:
        super().__init__(sentence)
        self.retry_after, self.unreachable = retry_after, unreachable


@dataclass
class Sent:
    """What is known of the bill of one question.

    Attributes:
        open: requests that were sent and whose bill never came: they may have been answered all the same.
    """

    open: int = 0


class Endpoint:
    """One endpoint, with the key that the recipe names. Made where it is used: neither it nor its key is pickled.

    Args:
        section: where the recipe says so, for errors.
        model: that is asked, for errors; None: the recipe's.
        patience_s: longest `Retry-After` that is waited for, in seconds.

    Attributes:
        took: seconds of the latest 1,000 requests that were answered, without waiting for their turn.
    """

    def __init__(
        self,
        settings: Settings,
        url: str,
        *,
        section: str = "teacher",
        model: str | None = None,
        patience_s: float = LONGEST_WAIT_S,
    ) -> None:
        """Raises `UserError` where the key is not in the environment."""
        self.settings, self.url = settings, url
        self._model, self._patience_s = model or settings.model, patience_s
        self._key = _key(settings.api_key_env, section)
        self._most = settings.max_attempts
        self.pace = Pace(settings.max_concurrency)
        limits = httpx2.Limits(
            max_connections=settings.max_concurrency, max_keepalive_connections=settings.max_concurrency
        )
        self.client = openai.AsyncOpenAI(
            base_url=self.url,
            api_key=self._key or "none",
            max_retries=0,
            timeout=settings.timeout_s,
            http_client=openai.DefaultAsyncHttpxClient(
                limits=limits, event_hooks={} if self._key else {"request": [_without_key]}
            ),
        )
        self._broken: UserError | None = None
        self.took: deque[float] = deque(maxlen=_TIMED)

    def reopen(self) -> None:
        """Ask again, whatever was wrong before."""
        self._broken = None

    def give_up(self, error: UserError) -> NoReturn:
        """Raise `error`, and let those who wait for their turn have it too: nothing more is asked."""
        self._broken = error
        raise error

    async def post(self, path: str, body: Mapping[str, Any], sent: Sent) -> dict[str, Any]:
        """The endpoint's reply to a request, as it came.

        Raises:
            Refused: the request cannot be answered.
            UserError: no request can.
        """

        async def send() -> dict[str, Any]:
            sent.open += 1
            try:
                response = await self.client.post(path, cast_to=httpx2.Response, body=body)
            except openai.APIStatusError:
                sent.open -= 1  # nobody is billed for an error
                raise
            return parsed(response.content)

        def undone() -> None:
            sent.open -= 1

        return await self.call(send, unsent=undone)

    async def call(
        self,
        send: Callable[[], Awaitable[T]],
        *,
        unsent: Callable[[], None] | None = None,
        limit_s: float | None = None,
    ) -> T:
        """Do something at the endpoint, as often as it takes and the recipe allows.

        Args:
            unsent: called for each attempt that did not reach the endpoint.
            limit_s: longest time for one attempt, in seconds; None: the recipe's.

        Raises:
            Refused: it cannot be done.
            UserError: nothing can.
        """
        for attempt in range(1, self._most + 1):
            async with self.pace.turn() as turn:
                if self._broken is not None:
                    raise self._broken
                began = time.monotonic()
                try:
                    async with asyncio.timeout(limit_s or self.settings.timeout_s):
                        result = await send()
                except (openai.APIError, TimeoutError) as error:
                    try:
                        busy = self._busy(error)
                    except UserError as final:
                        self.give_up(final)
                    turn.busy(busy.retry_after)
                    if busy.unreachable and unsent is not None:
                        unsent()
                else:
                    turn.answered()
                    self.took.append(time.monotonic() - began)
                    return result
            if attempt == self._most:
                break
            await asyncio.sleep(
                backoff(attempt) if busy.retry_after is None else busy.retry_after + random.uniform(0, _FIRST_BACKOFF_S)
            )
        times = f"{self._most} attempts" if self._most > 1 else "one attempt"
        if busy.unreachable:
            self.give_up(UserError(f"the endpoint {self.url} cannot be reached in {times}: {busy}"))
        raise Unanswered(f"the endpoint did not answer in {times}: {busy}")

    def quoted(self, text: object) -> str:
        """The endpoint's own words, on one line, short, and without the key."""
        words = " ".join(str(text).split())
        for secret in {self._key, quote(self._key, safe=""), json.dumps(self._key)[1:-1]} - {""}:
            words = words.replace(secret, "***")
        return words if len(words) <= _LONGEST_QUOTE else words[: _LONGEST_QUOTE - 1] + "…"

    def _busy(self, error: openai.APIError | TimeoutError) -> _Busy:
        """What another attempt may help against. Raises `Refused` or `UserError` for anything else."""
        if isinstance(error, openai.APIStatusError):
            return self._busy_status(error)
        cause = error.__cause__
        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
            return _Busy(self.quoted(cause) or type(cause).__name__, unreachable=True)
        if isinstance(error, openai.APITimeoutError | TimeoutError):
            return _Busy(f"no answer in {self.settings.timeout_s:g} s")
        if isinstance(error, openai.APIConnectionError):
            return _Busy(f"the connection broke ({self.quoted(cause)})")
        raise Refused(f"the endpoint's answer cannot be read: {self.quoted(error)}") from None

    def _busy_status(self, error: openai.APIStatusError) -> _Busy:
        status, code = error.status_code, error.code
        words = f"{status}: {self.quoted(said(error.body) or error.message)}"
        if status == 401:
            # OpenAI repeats a part of the key in its own words.
            key = f"the key in {self.settings.api_key_env}" if self._key else "requests without a key"
            raise UserError(f"the endpoint {self.url} refuses {key} (401)") from None
        if status == 404:
            raise UserError(
                f"the endpoint {self.url} knows no model {self._model!r}, or no such path ({words})"
            ) from None
        if code in _SPENT:
            raise UserError(f"the account at {self.url} has no money left ({words})") from None
        if status in (408, 409, 425, 429) or status >= 500:
            wait = retry_after(error.response.headers)
            if wait is not None and wait > self._patience_s:
                raise UserError(
                    f"the endpoint {self.url} asks to be left alone for"
                    f" {f'{wait / 60:.0f} minutes' if wait >= 60 else f'{wait:.0f} s'}: run the same command again then"
                ) from None
            return _Busy(words, retry_after=wait)
        if status in (400, 413, 422):
            parameter = str(error.param or "").partition(".")[0]
            if parameter in _SAME_FOR_ALL or (parameter and code in _UNSUPPORTED):
                raise Unsupported(
                    f"the endpoint {self.url} does not take the parameter `{self.quoted(parameter)}` ({words})",
                    parameter,
                ) from None
            too_long = code == "context_length_exceeded"
            raise Rejected(f"the endpoint refused the request ({words})", too_long=too_long) from None
        raise UserError(f"the endpoint {self.url} refuses all requests ({words})") from None


def parsed(content: bytes) -> dict[str, Any]:
    """A reply's JSON object. Raises `Refused` for anything else."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise Refused("the endpoint's answer is not JSON") from None
    if not isinstance(found, dict):
        raise Refused("the endpoint's answer is not a JSON object")
    return found


def said(body: object) -> str | None:
    """The message in an error's body, in OpenAI's shape or FastAPI's."""
    if not isinstance(body, dict):
        return None
    inner = body.get("error", body)
    return str(inner.get("message") or body.get("detail") or "") or None if isinstance(inner, dict) else str(inner)


def backoff(attempt: int) -> float:
    """Seconds to wait after a failed attempt, 1 being the first: exponential, and drawn so that no two ask together."""
    return min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0**attempt) * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a reply asks to wait (RFC 9110, 10.2.3: seconds or a date); None where it does not say."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            seconds = float(value) * scale
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, date.timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


async def _without_key(request: httpx2.Request) -> None:
    # The client insists on a key; the endpoint is to see none, not even a made-up one.
    request.headers.pop("authorization", None)


def _key(name: str | None, section: str) -> str:
    if name is None:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise UserError(
            f"the environment variable {name} holds no key for the {section.partition('.')[0]}'s endpoint: set it where"
            f" the job runs, or `{section}.api_key_env: null` for an endpoint without keys"
        )
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the environment variable {name} holds characters that no key has")
    return key


class Loop:
    """An event loop in a thread of its own: connections live as long as it does, and callers may have their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="endpoint").start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; interrupted, it is cancelled first."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
