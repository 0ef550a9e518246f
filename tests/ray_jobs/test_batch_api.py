"""The Batch API: one batch a part, whatever happens in between, at the batch price."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from endpoint_parts import KEY, TEXTS, MakeRecipe, at, key, questions, quick, tokenizer_folder
from scripted_endpoint import Reply, ScriptedEndpoint, error, one_of
from transformers import AutoTokenizer

from ray_jobs.capture import batch_api
from ray_jobs.capture.endpoint_teacher import EndpointTeacher
from ray_jobs.capture.spending import ledger
from ray_jobs.capture.teacher import Answer, Failure
from stillhouse.errors import UserError
from stillhouse.run import Run
from stillhouse.storage import LocalStorage

__all__ = ["key", "quick", "tokenizer_folder"]

PRICES = {"prices__teacher_input": 1e6, "prices__teacher_output": 1e6}


class Job:
    """A capture that is started again and again, on one run."""

    def __init__(self, make_recipe: MakeRecipe, folder: Path, tmp_path: Path) -> None:
        self._make, self._folder = make_recipe, folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.run = Run.open(str(tmp_path / "run"))

    def endpoint(self, **script: Any) -> ScriptedEndpoint:
        answer = one_of(" positive", " negative")
        return ScriptedEndpoint(**{"answer": answer, "tokenizer": self.tokenizer, "key": KEY, **script})

    def __call__(self, endpoint: ScriptedEndpoint, texts: list[str] = TEXTS, **changes: Any) -> list[Answer]:
        batch = {"teacher__batch": True, "teacher__poll_s": 0.01}
        recipe = self._make(at(endpoint.url, self._folder, **{**batch, **PRICES, **changes}))
        self.run.begin(recipe)
        return EndpointTeacher(recipe, recipe.teacher, self.run).answer(3, questions(recipe, texts))


@pytest.fixture
def job(make_recipe: MakeRecipe, tokenizer_folder: Path, tmp_path: Path, key: str, quick: None) -> Job:
    return Job(make_recipe, tokenizer_folder, tmp_path)


def test_a_batch_answers_as_single_requests_do_and_costs_half(job: Job) -> None:
    with job.endpoint(polls=3) as endpoint:
        single = job(endpoint, teacher__batch=False)
        at_list_price = ledger(job.run)
        job.run.storage.delete_folder("capture")
        together = job(endpoint)
        told = ledger(job.run)
    for (alone,), (batched,) in zip(single, together, strict=True):  # type: ignore[misc]
        assert (alone.text, alone.token_ids, alone.prompt_token_ids) == (
            batched.text, batched.token_ids, batched.prompt_token_ids,
        )  # fmt: skip
        assert alone.signal.logprobs.tolist() == batched.signal.logprobs.tolist()
    assert told["price"] == "batch"
    assert told["cost"] == at_list_price["cost"] / 2
    assert told["requests"] == at_list_price["requests"] == len(TEXTS)
    (batch,) = endpoint.batches.values()
    assert batch["endpoint"] == "/v1/completions"
    assert batch["completion_window"] == "24h"
    assert (batch["metadata"]["stillhouse_run"], batch["metadata"]["stillhouse_part"]) == (job.run.uri, "3")


def test_chats_are_limited_by_the_newer_name(job: Job) -> None:
    chat = {"task__prompt": None, "task__messages": [{"role": "user", "content": "{text}"}]}
    with job.endpoint() as endpoint:
        assert not any(isinstance(answer, Failure) for answer in job(endpoint, **chat))
        (name,) = endpoint.uploads
        lines = [json.loads(line) for line in endpoint._files["file-0"][1].splitlines()]
    assert name.endswith(".jsonl")
    assert {line["url"] for line in lines} == {"/v1/chat/completions"}
    assert {line["body"]["max_completion_tokens"] for line in lines} == {16}


class Killed(BaseException):
    """The process ends here."""


def test_a_job_killed_while_it_waits_goes_on_with_the_same_batch(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    async def killed(_seconds: float) -> None:
        raise Killed

    with job.endpoint(polls=3) as endpoint:
        with monkeypatch.context() as patch:
            patch.setattr(batch_api.asyncio, "sleep", killed)
            with pytest.raises(Killed):
                job(endpoint)
        answers = job(endpoint)
    assert not any(isinstance(answer, Failure) for answer in answers)
    assert (len(endpoint.batches), len(endpoint.uploads)) == (1, 1)
    assert ledger(job.run)["requests"] == len(TEXTS)


@pytest.mark.parametrize("place", ["made", "uploaded"])
def test_a_batch_that_was_made_and_not_written_down_is_found_again(
    job: Job, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    write = LocalStorage.write

    def killed_before_the_batch_is_known(storage: LocalStorage, name: str, data: bytes) -> None:
        nonlocal written
        if "/batches/" in name and b'"batch":"batch-' in data:
            written += 1
            raise Killed
        write(storage, name, data)

    with job.endpoint() as endpoint, monkeypatch.context() as patch:
        if place == "made":
            patch.setattr(LocalStorage, "write", killed_before_the_batch_is_known)
            with pytest.raises(Killed):
                job(endpoint)
        else:
            refuse = endpoint._made
            endpoint._made = lambda _: error(401)  # type: ignore[method-assign]
            with pytest.raises(UserError, match="refuses the key"):
                job(endpoint)
            endpoint._made = refuse  # type: ignore[method-assign]
        patch.undo()
        monkeypatch.setenv("TEACHER_KEY", KEY)
        answers = job(endpoint)
    assert not any(isinstance(answer, Failure) for answer in answers)
    assert (len(endpoint.batches), len(endpoint.uploads)) == (1, 1)
    told = ledger(job.run)
    assert (told["requests"], told["unsettled"]) == (len(TEXTS), 0)


def test_an_answer_to_the_making_that_never_comes_makes_no_second_batch(job: Job) -> None:
    with job.endpoint() as endpoint:
        make = endpoint._made
        lost: list[dict[str, Any]] = []

        def made(body: dict[str, Any]) -> Reply:
            reply = make(body)
            if not lost:
                lost.append(body)
                return error(502)
            return reply

        endpoint._made = made  # type: ignore[method-assign]
        answers = job(endpoint)
    assert not any(isinstance(answer, Failure) for answer in answers)
    assert len(endpoint.batches) == 1


def test_a_batch_that_was_never_made_costs_nothing(job: Job) -> None:
    with job.endpoint() as endpoint:
        endpoint._uploaded = lambda *_: error(403)  # type: ignore[method-assign]
        with pytest.raises(UserError, match="refuses all requests"):
            job(endpoint)
    assert ledger(job.run)["cost"] == 0


def test_of_an_expired_batch_what_is_there_is_kept(job: Job) -> None:
    with job.endpoint(batch_status="expired", answered=4) as endpoint:
        answers = job(endpoint)
        failed = [answer for answer in answers if isinstance(answer, Failure)]
        assert len(failed) == len(TEXTS) - 4
        assert all("refused the request in the batch: too late" in answer.error for answer in failed)
        assert ledger(job.run)["requests"] == 4
        # The failed ones asked again are other requests, so another batch.
        endpoint.answered = None
        left = [text for text, answer in zip(TEXTS, answers, strict=True) if isinstance(answer, Failure)]
        assert not any(isinstance(answer, Failure) for answer in job(endpoint, left))
    assert len(endpoint.batches) == 2


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ("failed", r"batch-0 of part 3 has failed without an answer \(line 1 is no request\)"),
        ("cancelled", r"batch-0 of part 3 was cancelled without an answer"),
        ("expired", r"batch-0 of part 3 was expired without an answer"),
    ],
)
def test_a_batch_without_an_answer_costs_nothing_and_is_sent_again(job: Job, status: str, sentence: str) -> None:
    with job.endpoint(batch_status=status, answered=0) as endpoint:
        with pytest.raises(UserError, match=sentence):
            job(endpoint)
        assert ledger(job.run)["cost"] == 0
        endpoint.batch_status, endpoint.answered = "completed", None
        assert not any(isinstance(answer, Failure) for answer in job(endpoint))
    assert len(endpoint.batches) == 2


def test_a_part_that_is_read_again_is_not_bought_again(job: Job) -> None:
    with job.endpoint() as endpoint:
        job(endpoint)
        job(endpoint)  # killed before the part was written
    assert len(endpoint.batches) == 1
    assert ledger(job.run)["requests"] == len(TEXTS)


def test_the_budget_is_asked_before_a_batch_is_sent(job: Job) -> None:
    with job.endpoint() as endpoint:
        with pytest.raises(UserError, match=r"spent 0\.00 of 5\.00 USD"):
            job(endpoint, capture__budget=5.0)
        assert (endpoint.uploads, endpoint.batches) == ([], {})
        assert not any(isinstance(answer, Failure) for answer in job(endpoint, capture__budget=500.0))


def test_the_limits_of_a_batch(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    with job.endpoint() as endpoint:
        for name in ("MOST_REQUESTS", "MOST_BYTES"):
            with monkeypatch.context() as patch:
                patch.setattr(batch_api, name, 3)
                with pytest.raises(UserError, match=r"lower `capture\.part_size`"):
                    job(endpoint)
    assert endpoint.uploads == []
