"""The Batch API: a part's requests as one file, answered within a day at a lower price.

A batch is never lost and never bought twice: `RUN/capture/batches` says what is being asked before it is asked, and a
batch that was made but not written down, because the job was killed in between, is found again by its metadata.
Source: OpenAI's Batch API guide, and its client's types.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from openai.types import Batch
from pydantic import BaseModel, ConfigDict, ValidationError

from ray_jobs.capture.endpoint_requests import Request
from ray_jobs.progress import say
from stillhouse.data import FIRST_TEACHER
from stillhouse.endpoint.client import Endpoint, said
from stillhouse.endpoint.errors import Refused
from stillhouse.errors import UserError
from stillhouse.run import Run, digest

FOLDER = "capture/batches"

MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
"""Limits of one batch."""

_TRANSFER_S = 900.0
"""Longest time for one file to go there or come back, in seconds."""

_ENDED = {"completed", "failed", "expired", "cancelled"}


class BatchLost(UserError):
    """A batch without any answer: nothing was billed, and the next start makes another."""


class State(BaseModel):
    """What is known of a part's batch.

    Attributes:
        content: hash of the requests; other requests are another batch.
        attempt: the attempt's id in the account, which is also the batch's name at the endpoint.
        batch: the endpoint's id of it; None until it is known that there is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    content: str
    attempt: str
    batch: str | None = None


class PartBatch:
    """The batch of one part by one teacher."""

    def __init__(self, run: Run, teacher: str, part: int, requests: Sequence[Request]) -> None:
        """Raises `UserError` for more than one batch may hold."""
        folder = FOLDER if teacher == FIRST_TEACHER else f"{FOLDER}/{teacher}"
        self._run, self._part, self._path = run, part, requests[0].path
        self._key = f"{folder}/part-{part:05d}.json"
        self._lines = _lines(requests)
        content = digest([teacher, part, *(request.body for request in requests)])
        found = self._read()
        self._state = found if found is not None and found.content == content else None
        if self._state is None:
            self._state = State(content=content, attempt=uuid4().hex)
            self._save(self._state)
            self._fresh = True
        else:
            self._fresh = False

    @property
    def attempt(self) -> str:
        """The attempt's id in the account: one batch is paid for once, however often the job is started."""
        assert self._state is not None
        return self._state.attempt

    @property
    def may_exist(self) -> bool:
        """Whether there may be a batch at the endpoint, known or not."""
        return not self._fresh or (self._state is not None and self._state.batch is not None)

    def forget(self) -> None:
        """Have the next start make a new batch."""
        self._run.storage.delete(self._key)

    async def replies(self, endpoint: Endpoint, count: int) -> list[dict[str, Any] | Refused]:
        """Wait for the batch; the reply to each of the `count` requests, or why there is none.

        Raises:
            BatchLost: the endpoint refused the batch, or gave it back without any answer.
            UserError: the endpoint cannot be asked.
        """
        batch = await self._made(endpoint)
        while batch.status not in _ENDED:
            await asyncio.sleep(endpoint.settings.poll_s)
            batch = await endpoint.call(partial(endpoint.client.batches.retrieve, batch.id))
        told = await self._results(endpoint, batch)
        if any(isinstance(reply, dict) for reply in told.values()):
            lost = Refused(f"the batch {batch.status} before this was answered")
            return [told.get(str(i), lost) for i in range(count)]
        # Nothing in it was billed, so that it may be made again.
        self.forget()
        if batch.status != "completed" or not told:
            why = "; ".join(endpoint.quoted(error.message) for error in (batch.errors and batch.errors.data) or ())
            raise BatchLost(
                f"the batch {batch.id} of part {self._part} {'has' if batch.status == 'failed' else 'was'}"
                f" {batch.status} without an answer{f' ({why})' if why else ''}: the same command sends it again"
            )
        return [told.get(str(i), Refused("the batch left this out")) for i in range(count)]

    async def _made(self, endpoint: Endpoint) -> Batch:
        """The batch at the endpoint: the one that is known, one that was made and not written down, or a new one."""
        assert self._state is not None
        if self._state.batch is not None:
            return await endpoint.call(partial(endpoint.client.batches.retrieve, self._state.batch))
        batch = None if self._fresh else await self._found(endpoint)
        if batch is None:
            batch = await self._new(endpoint)
        self._save(self._state.model_copy(update={"batch": batch.id}))
        say("capture", f"part {self._part} is batch {batch.id}, of {len(self._lines)} requests")
        return batch

    async def _found(self, endpoint: Endpoint) -> Batch | None:
        async def look() -> Batch | None:
            async for batch in endpoint.client.batches.list(limit=100):
                if (batch.metadata or {}).get("stillhouse_attempt") == self.attempt:
                    return batch
            return None

        return await endpoint.call(look, limit_s=_TRANSFER_S)

    async def _new(self, endpoint: Endpoint) -> Batch:
        client = endpoint.client
        name = f"stillhouse-{self.attempt}.jsonl"

        async def uploaded() -> str:
            if not self._fresh:
                async for file in client.files.list(purpose="batch", limit=10_000):
                    if file.filename == name:
                        return file.id
            made = await client.files.create(file=(name, b"".join(self._lines)), purpose="batch", timeout=_TRANSFER_S)
            return made.id

        file_id = await endpoint.call(uploaded, limit_s=_TRANSFER_S)
        metadata = {"stillhouse_run": self._run.uri[-512:], "stillhouse_part": str(self._part)}

        async def create() -> Batch:
            if not self._fresh and (found := await self._found(endpoint)) is not None:
                return found
            self._fresh = False  # an answer that does not come may have been a batch all the same
            return await client.batches.create(
                input_file_id=file_id,
                endpoint=f"/v1{self._path}",  # type: ignore[arg-type]
                completion_window="24h",
                metadata={**metadata, "stillhouse_attempt": self.attempt},
            )

        return await endpoint.call(create, limit_s=_TRANSFER_S)

    async def _results(self, endpoint: Endpoint, batch: Batch) -> dict[str, dict[str, Any] | Refused]:
        """By number of the request; results come in any order, and failed ones in a file of their own."""
        found: dict[str, dict[str, Any] | Refused] = {}
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is None:
                continue

            async def fetch(file_id: str = file_id) -> bytes:
                return (await endpoint.client.files.content(file_id, timeout=_TRANSFER_S)).content

            for line in (await endpoint.call(fetch, limit_s=_TRANSFER_S)).splitlines():
                try:
                    result = json.loads(line)
                    number = str(result["custom_id"])
                except (ValueError, KeyError, TypeError):
                    continue  # whose it is cannot be known: that one stays unanswered
                found[number] = _reply(endpoint, result)
        return found

    def _read(self) -> State | None:
        try:
            return State.model_validate_json(self._run.storage.read(self._key))
        except KeyError:
            return None
        except ValidationError as error:
            raise UserError(
                f"{self._run.uri}/{self._key} is damaged, and without it nobody knows whether part {self._part} was"
                " bought: look at the endpoint's batches, then remove it"
            ) from error

    def _save(self, state: State) -> None:
        self._run.storage.write(self._key, state.model_dump_json().encode())
        self._state = state


def _lines(requests: Sequence[Request]) -> list[bytes]:
    lines = [
        json.dumps({"custom_id": str(i), "method": "POST", "url": f"/v1{request.path}", "body": request.body}).encode()
        + b"\n"
        for i, request in enumerate(requests)
    ]
    size = sum(map(len, lines))
    if len(lines) > MOST_REQUESTS or size > MOST_BYTES:
        raise UserError(
            f"a part of {len(lines)} requests and {size / 1e6:.0f} MB is more than one batch holds ({MOST_REQUESTS:,}"
            f" and {MOST_BYTES / 1e6:.0f} MB): lower `capture.part_size`"
        )
    return lines


def _reply(endpoint: Endpoint, result: Mapping[str, Any]) -> dict[str, Any] | Refused:
    response = result.get("response") or {}
    body = response.get("body")
    if response.get("status_code") == 200 and isinstance(body, dict):
        return dict(body)
    words = said(body) or said(result) or "no reason given"
    return Refused(f"the endpoint refused the request in the batch: {endpoint.quoted(words)}")
