"""Train a commercial model as the student: export, upload, fine-tune through the API, and note the model's name.

What was uploaded and started stands in RUN/training/NAME/openai.json right after each of it, so that a restart goes on
with the same job; what was made and not noted, because the process was killed in between, is found again by the files'
names. Source: OpenAI's reference of files and fine-tuning jobs, and its client's types.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from pydantic import BaseModel, ConfigDict, ValidationError

from ray_jobs.progress import say
from stillhouse import lineage
from stillhouse.endpoint.client import Endpoint, Loop
from stillhouse.endpoint.errors import Refused, Unanswered
from stillhouse.endpoint.student import MODEL, SECTION, RemoteStudent
from stillhouse.errors import UserError
from stillhouse.export.examples import Examples
from stillhouse.export.write import Exported, export
from stillhouse.recipe import OpenAIStudent, Recipe
from stillhouse.run import Run, digest

_TRANSFER_S = 900.0
"""Longest time for one file to go there, in seconds."""

_ENDED = {"succeeded", "failed", "cancelled"}

_METRICS = {"train_loss": "train_loss", "full_valid_loss": "validation_loss", "valid_loss": "validation_loss"}
"""From the API's names of losses to the manifest's; the first that is told last counts."""


class State(BaseModel):
    """What is known of a fine-tuning.

    Attributes:
        attempt: names the files and the job at the endpoint.
        content: sha256 of each split's file; other content is another attempt.
        examples: in each split's file.
        files: the endpoint's ids of them, as far as they were uploaded.
        job: the endpoint's id of it; None until it is known that there is one.
        told: the last event that was printed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: str
    content: dict[str, str]
    examples: dict[str, int]
    files: dict[str, str] = {}
    job: str | None = None
    told: str | None = None


def train_openai(recipe: Recipe, run: Run) -> None:
    """Make RUN/student: `model.json`, which names the fine-tuned model.

    Raises:
        UserError: no dataset, the dataset breaks the API's rules, or the job cannot be made, failed or was cancelled.
    """
    began = time.monotonic()
    section = recipe.student.openai
    assert section is not None
    run.finished("dataset", "curate")
    inputs = lineage.inputs("student", recipe, run)
    say("train", f"reads {run.uri}/dataset, fine-tunes {section.model} at {section.url}, writes {run.uri}/student")
    tuning = _Tuning(recipe, run, section, digest(inputs)[:16])
    tuning.tidy()
    try:
        job, losses = tuning.run()
    except BaseException:
        if tuning.state is not None and tuning.state.job is not None:
            say("train", f"the job {tuning.state.job} goes on at the endpoint: the same command follows it")
            say("train", f"(to forget it, remove {run.uri}/{tuning.key})")
        raise
    assert tuning.state is not None
    if not job.fine_tuned_model:
        raise UserError(f"the fine-tuning job {job.id} succeeded, and the endpoint does not tell the model's name")
    made_by = section.model_dump(mode="json", exclude=lineage.ASKING)
    student = RemoteStudent(model=job.fine_tuned_model, url=section.url, job=job.id, openai=made_by)
    run.clear("student")
    run.storage.write(MODEL, student.model_dump_json(indent=2).encode())
    counts: dict[str, int | float] = {"records": tuning.state.examples["train"], **losses}
    if job.trained_tokens is not None:
        counts["trained_tokens"] = job.trained_tokens
    run.commit("student", recipe=recipe, inputs=inputs, counts=counts, began=began)
    run.storage.delete_folder("training")
    say("train", f"the student is {student.model}, of {counts.get('trained_tokens', 'an unknown number of')} tokens")


class _Tuning:
    """One fine-tuning, from the dataset to the job's end."""

    def __init__(self, recipe: Recipe, run: Run, section: OpenAIStudent, name: str) -> None:
        self._recipe, self._run, self._section = recipe, run, section
        self._folder = f"training/{name}"
        self.key = f"{self._folder}/openai.json"
        self._endpoint = Endpoint(section, section.url, section=SECTION)
        self._client = self._endpoint.client
        self.state = self._read(self.key)

    def tidy(self) -> None:
        """Forget what other inputs left; a job of theirs goes on at the endpoint, and nobody follows it."""
        for key in self._run.storage.list("training"):
            if key.startswith(f"{self._folder}/"):
                continue
            if key.endswith("/openai.json") and (other := self._read(key)) is not None and other.job is not None:
                say("train", f"no longer follows the job {other.job}, which was made from an earlier recipe or dataset")
            self._run.storage.delete(key)

    def run(self) -> tuple[FineTuningJob, dict[str, float]]:
        """The job that succeeded, and its last losses. Raises as `train_openai`."""
        loop = Loop()
        if self.state is None or self.state.job is None:
            with tempfile.TemporaryDirectory(prefix="stillhouse-export-") as folder:
                written = self._export(Path(folder))
                loop.run(self._start(written))
        else:
            say("train", f"goes on with the job {self.state.job}")
        return loop.run(self._followed())

    def _export(self, folder: Path) -> dict[str, Exported]:
        on = self._recipe.student.ce_on
        splits = ["train"]
        if next(iter(Examples(self._recipe, self._run, "validation", on)), None) is not None:
            splits.append("validation")
        found = export(self._recipe, self._run, "openai", folder, splits=splits, on=on)
        for split, written in zip(splits, found, strict=True):
            left = "".join(f", {count} left out ({reason})" for reason, count in written.left_out.items())
            say("train", f"{split}: {written.examples} examples, {written.size / 1e6:.1f} MB{left}")
        return dict(zip(splits, found, strict=True))

    async def _start(self, written: dict[str, Exported]) -> None:
        """Upload what is not there yet, and make the job, if it is not there either."""
        content = {split: each.sha256 for split, each in written.items()}
        known = self.state is not None and self.state.content == content
        if not known:
            examples = {split: each.examples for split, each in written.items()}
            self._save(State(attempt=uuid4().hex, content=content, examples=examples))
        assert self.state is not None
        try:
            for split, each in written.items():
                if split not in self.state.files:
                    file_id = await self._uploaded(split, each.path, search=known)
                    self._save(self.state.model_copy(update={"files": {**self.state.files, split: file_id}}))
            job = await self._made(search=known)
        except Unanswered as error:
            raise UserError(f"{error}: the same command goes on") from error
        except Refused as error:
            raise UserError(f"{self._section.model} cannot be fine-tuned: {error}") from error
        self._save(self.state.model_copy(update={"job": job.id}))
        say("train", f"started the job {job.id}")

    async def _uploaded(self, split: str, path: Path, *, search: bool) -> str:
        assert self.state is not None
        name = f"stillhouse-{self.state.attempt}-{split}.jsonl"
        maybe_there = search

        async def upload() -> str:
            nonlocal maybe_there
            if maybe_there:
                async for file in self._client.files.list(purpose="fine-tune", limit=10_000):
                    if file.filename == name:
                        return file.id
            maybe_there = True  # an answer that does not come may have been a file all the same
            with path.open("rb") as content:
                made = await self._client.files.create(file=(name, content), purpose="fine-tune", timeout=_TRANSFER_S)
            return made.id

        return await self._endpoint.call(upload, limit_s=_TRANSFER_S)

    async def _made(self, *, search: bool) -> FineTuningJob:
        assert self.state is not None
        files, attempt, section = self.state.files, self.state.attempt, self._section
        optional: dict[str, Any] = {"validation_file": files["validation"]} if "validation" in files else {}
        maybe_there = search

        async def make() -> FineTuningJob:
            nonlocal maybe_there
            if maybe_there:
                async for job in self._client.fine_tuning.jobs.list(limit=100):
                    # The file is this attempt's own, for endpoints that keep no metadata.
                    if job.training_file == files["train"]:
                        return job
            maybe_there = True
            return await self._client.fine_tuning.jobs.create(
                model=section.model,
                training_file=files["train"],
                method={
                    "type": section.method,
                    "supervised": {
                        "hyperparameters": {
                            "n_epochs": section.epochs,
                            "batch_size": section.batch_size,
                            "learning_rate_multiplier": section.learning_rate_multiplier,
                        }
                    },
                },
                seed=self._recipe.seed,
                suffix=section.suffix or self._recipe.name,
                metadata={"stillhouse_run": self._run.uri[-512:], "stillhouse_attempt": attempt},
                **optional,
            )

        return await self._endpoint.call(make)

    async def _followed(self) -> tuple[FineTuningJob, dict[str, float]]:
        """Wait for the job's end, and print its events meanwhile."""
        assert self.state is not None
        assert self.state.job is not None
        jobs, job_id = self._client.fine_tuning.jobs, self.state.job
        try:
            while True:
                job = await self._endpoint.call(partial(jobs.retrieve, job_id))
                self._tell(await self._endpoint.call(partial(self._events, job_id, after=self.state.told)))
                if job.status in _ENDED:
                    break
                await _pause(self._section.poll_s)
            if job.status == "succeeded":
                return job, _losses(await self._endpoint.call(partial(self._events, job_id, after=None)))
        except Refused as error:
            raise UserError(f"the job {job_id} cannot be followed: {error}") from error
        # The next start makes another, of whatever was mended.
        self._run.storage.delete(self.key)
        self.state = None
        if job.status == "cancelled":
            raise UserError(f"the fine-tuning job {job_id} was cancelled: the same command starts another")
        why = self._endpoint.quoted(job.error.message) if job.error and job.error.message else "no reason given"
        raise UserError(f"the fine-tuning job {job_id} failed: {why}")

    async def _events(self, job_id: str, *, after: str | None) -> list[FineTuningJobEvent]:
        """The job's events since `after`, the oldest first; the endpoint tells the newest first."""
        found = []
        async for event in self._client.fine_tuning.jobs.list_events(job_id, limit=100):
            if event.id == after:
                break
            found.append(event)
        return found[::-1]

    def _tell(self, events: list[FineTuningJobEvent]) -> None:
        metrics = [event for event in events if event.type == "metrics"]
        for event in events:
            # Of the steps between two looks the last one is enough.
            if event.type != "metrics" or event is metrics[-1]:
                say("train", self._endpoint.quoted(event.message))
        if events:
            assert self.state is not None
            self._save(self.state.model_copy(update={"told": events[-1].id}))

    def _read(self, key: str) -> State | None:
        try:
            return State.model_validate_json(self._run.storage.read(key))
        except KeyError:
            return None
        except ValidationError as error:
            raise UserError(
                f"{self._run.uri}/{key} is damaged, and without it nobody knows whether a job was started: look at the"
                " endpoint's fine-tuning jobs, then remove it"
            ) from error

    def _save(self, state: State) -> None:
        self._run.storage.write(self.key, state.model_dump_json().encode())
        self.state = state


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _losses(events: list[FineTuningJobEvent]) -> dict[str, float]:
    """The last loss of each kind that the events tell."""
    found: dict[str, float] = {}
    for event in reversed(events):
        told = event.data if isinstance(event.data, dict) else {}
        for name, ours in _METRICS.items():
            value = told.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                found.setdefault(ours, float(value))
    return found
