"""A scripted endpoint that also fine-tunes: files, jobs with their events, and then the model that came out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from scripted_endpoint import Reply, ScriptedEndpoint, error

BASE = "gpt-tiny-2024-07-18"


class ScriptedTuning(ScriptedEndpoint):
    """Fine-tunes `BASE`, and answers by `answer` once that succeeded.

    Attributes:
        jobs: every fine-tuning job that was made, by id.
        listed: how often the events of a job were asked for, a page each.

    Args:
        polls: how often a job is looked at before it has ended; each look adds the events of one step.
        outcome: its status then.
        confidence: of the answer to a prompt's text; None: the endpoint tells no logprobs.
        refuse: parameters that the endpoint answers 400 to.
        page: events that it tells at once.
        uploaded, tuned, polled: called before the reply goes out.
    """

    def __init__(
        self,
        answer: Callable[[str], str],
        *,
        outcome: str = "succeeded",
        confidence: Callable[[str], float] | None = lambda _: 0.5,
        refuse: tuple[str, ...] = (),
        page: int = 2,
        uploaded: Callable[[], None] = lambda: None,
        tuned: Callable[[], None] = lambda: None,
        polled: Callable[[], None] = lambda: None,
        **script: Any,
    ) -> None:
        super().__init__(answer, **{"model": "", **script})
        self.outcome, self.confidence, self.refuse, self.page = outcome, confidence, refuse, page
        self.uploaded, self.tuned, self.polled = uploaded, tuned, polled
        self.jobs: dict[str, dict[str, Any]] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.listed = 0
        self.scripted: list[Reply] = []

    def file(self, file_id: str) -> list[Any]:
        """The lines of a file that was uploaded."""
        return [json.loads(line) for line in self._files[file_id][1].splitlines()]

    def reply(
        self, method: str, path: str, headers: Mapping[str, str], content: bytes, query: Mapping[str, str]
    ) -> Reply:
        """What one request gets; replies in `scripted` come first."""
        if self.scripted:
            return self.scripted.pop(0)
        below = path.removeprefix("/v1")
        if below.startswith(("/fine_tuning/jobs", "/models/")):
            if headers.get("authorization", "") != (f"Bearer {self.key}" if self.key else ""):
                return error(401, f"Incorrect API key provided: {headers.get('authorization')}")
            if below.startswith("/models/"):
                known = below.removeprefix("/models/") == self.model
                return _json({"id": self.model, "object": "model"}) if known else error(404, "no such model")
            return self._tuning(method, below.split("/")[3:], content, query)
        found = super().reply(method, path, headers, content, query)
        if below == "/files" and method == "POST":
            self.uploaded()
        return found

    def completions(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The reply without faults, as sure as `confidence` says."""
        found = super().completions(path, body)
        (choice,) = found["choices"]
        if self.confidence is None:
            choice["logprobs"] = None
        elif choice["logprobs"] is not None:
            entries = choice["logprobs"]["content"]
            for entry in entries:
                entry["logprob"] = math.log(self.confidence(self._text(body))) / len(entries)
        # As OpenAI bills it: the end of the sequence is a token, and it is in no logprobs.
        found["usage"]["completion_tokens"] += 1
        return found

    def _completions(self, path: str, body: dict[str, Any]) -> Reply:
        for name in self.refuse:
            if name in body:
                return error(400, f"Unsupported parameter: {name}", param=name, code="unsupported_parameter")
        return super()._completions(path, body)

    def _tuning(self, method: str, where: list[str], content: bytes, query: Mapping[str, str]) -> Reply:
        if method == "POST" and not where:
            return self._started(json.loads(content))
        if not where:
            return _page(list(self.jobs.values())[::-1], query, most=100)
        if where[0] not in self.jobs:
            return error(404, f"Could not find fine tune: {where[0]}", code="fine_tune_not_found")
        if where[1:] == ["events"]:
            self.listed += 1
            return _page(self.events[where[0]][::-1], query, most=self.page)
        return self._seen(where[0])

    def _started(self, body: dict[str, Any]) -> Reply:
        if body["training_file"] not in self._files:
            return error(400, "invalid training_file", param="training_file")
        if body["model"] != BASE:
            return error(400, f"Model {body['model']} is not available for fine-tuning", code="model_not_available")
        with self._lock:
            job = {
                "id": f"ftjob-{len(self.jobs)}",
                "object": "fine_tuning.job",
                "created_at": 1,
                "status": "validating_files",
                "organization_id": "org",
                "result_files": [],
                "fine_tuned_model": None,
                "trained_tokens": None,
                "hyperparameters": body.get("method", {}).get("supervised", {}).get("hyperparameters", {}),
                "polls": 0,
                **body,
            }
            self.jobs[job["id"]] = job
            self.events[job["id"]] = []
            self._event(job, f"Created fine-tuning job: {job['id']}")
        self.tuned()
        return _json(job)

    def _seen(self, job_id: str) -> Reply:
        with self._lock:
            job = self.jobs[job_id]
            job["polls"] += 1
            step = job["polls"]
            if step < self.polls:
                job["status"] = "running"
                for part in (2 * step - 1, 2 * step):
                    loss = round(1 / part, 3)
                    self._event(job, f"Step {part}: training loss={loss}", step=part, train_loss=loss)
            elif job["status"] not in ("succeeded", "failed", "cancelled"):
                self._end(job)
        self.polled()
        return _json(job)

    def _end(self, job: dict[str, Any]) -> None:
        job["status"] = self.outcome
        if self.outcome == "failed":
            job["error"] = {"code": "invalid", "message": "Line 3 is\nno conversation", "param": "training_file"}
        if self.outcome == "succeeded":
            self._event(job, "Step 9: training loss=0.01", step=9, train_loss=0.01, full_valid_loss=0.25)
            self.model = job["fine_tuned_model"] = f"ft:{BASE}:org:{job['suffix']}:{job['id'][-1]}"
            job["trained_tokens"] = 1234
            self._event(job, f"New fine-tuned model created: {self.model}")
        self._event(job, f"The job has {self.outcome}")

    def _event(self, job: dict[str, Any], message: str, **metrics: float) -> None:
        events = self.events[job["id"]]
        events.append(
            {
                "id": f"ftevent-{len(events)}",
                "object": "fine_tuning.job.event",
                "created_at": 1 + len(events),
                "level": "info",
                "message": message,
                "type": "metrics" if metrics else "message",
                "data": metrics,
            }
        )


def _json(content: dict[str, Any]) -> Reply:
    return Reply(body=json.dumps(content).encode())


def _page(items: list[dict[str, Any]], query: Mapping[str, str], *, most: int) -> Reply:
    """One page of a list, after the item that the query names."""
    ids = [item["id"] for item in items]
    start = ids.index(query["after"]) + 1 if "after" in query else 0
    size = min(int(query.get("limit", 20)), most)
    more = start + size < len(items)
    return _json({"object": "list", "data": items[start : start + size], "has_more": more})
