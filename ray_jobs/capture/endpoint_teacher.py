"""A teacher behind an OpenAI-compatible endpoint: a commercial API, a gateway to one, or a vLLM that is served.

Greedy or sampled completions come through the endpoint's own decoding. Where the endpoint's tokenizer is known, its
logprobs become signal, after every reply was held against that tokenizer; OpenAI's API does not tell the probability
of the end of a sequence, so that this one token has no entries.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from ray_jobs.capture.batch_api import BatchLost, PartBatch
from ray_jobs.capture.endpoint_replies import NoLogprobs, Replies, usage
from ray_jobs.capture.endpoint_requests import Request, Requests
from ray_jobs.capture.spending import Decision, Spending, open_spending
from ray_jobs.capture.teacher import Answer, Failure, Identity, Question
from stillhouse.cost.billing import Attempt, BilledTokens
from stillhouse.data import FIRST_TEACHER
from stillhouse.endpoint.client import Endpoint, Loop, Sent
from stillhouse.endpoint.errors import Refused, Unanswered, Unsupported
from stillhouse.errors import UserError
from stillhouse.models import load_tokenizer, token_source
from stillhouse.recipe import Member, Recipe, Teacher
from stillhouse.run import Run
from stillhouse.signal.alignment import template_hash, tokenizer_hash

GIVE_UP_AFTER = 8
"""Questions in a row without any use that end the job: it is the endpoint then, and no longer the questions."""

_WAIT_S, _LONGEST_WAIT_S = 0.2, 1800.0
"""How often the account is asked again while others hold what is missing; and how long, where nothing changes there."""


class EndpointTeacher:
    """Asks an endpoint. It is made where it is used, since neither its key nor its connections are pickled.

    Args:
        section: the teacher's section of the recipe, with a `url`.
        run: whose account and batches are kept.
        spending: the account; None: the one that all processes of the Ray job share.
    """

    def __init__(self, recipe: Recipe, section: Teacher, run: Run, spending: Spending | None = None) -> None:
        """Raises `UserError` where the key or the tokenizer is missing, or a budget has no prices."""
        self._recipe, self._section, self._run = recipe, section, run
        self._name = section.name if isinstance(section, Member) else FIRST_TEACHER
        signal = recipe.capture.mode == "topk"
        named = section.tokenizer if signal else token_source(recipe)
        if named is None:
            raise UserError(
                "`capture.mode: topk` through an endpoint needs `teacher.tokenizer`: use `text` without one"
            )
        tokenizer = load_tokenizer(named)
        self._requests = Requests(recipe, section, tokenizer, own=signal)
        self._replies = Replies(recipe, section, tokenizer)
        self._endpoint = Endpoint(section, str(section.url))
        self._spending = spending or open_spending(recipe, run)
        self._loop = Loop()
        self._useless, self._unanswered, self._useful = 0, 0, False
        self.identity = Identity(
            model=section.model,
            tokenizer_hash=tokenizer_hash(tokenizer),
            template_hash=template_hash(tokenizer),
            engine=f"endpoint {section.url}",
            dtype="unknown",
        )

    def answer(self, part: int, questions: Sequence[Question]) -> list[Answer]:
        """See `Teacher.answer`. Nothing is asked that the budget does not cover at its worst."""
        if any(question.completion is not None for question in questions):
            raise UserError("an endpoint cannot score completions: give the teacher's weights")
        if not questions:
            return []
        requests = [self._requests.of(question) for question in questions]
        batch = PartBatch(self._run, self._name, part, requests) if self._section.batch else None
        bill = _Bill(requests)
        attempt = Attempt(
            id=batch.attempt if batch else uuid4().hex,
            batch=self._section.batch,
            worst=sum((request.worst for request in requests), BilledTokens()),
        )
        self._reserve(part, attempt, unasked=batch)
        self._endpoint.reopen()
        try:
            if batch is None:
                return self._loop.run(self._ask_all(questions, bill))
            return self._loop.run(self._ask_batch(batch, bill))
        finally:
            self._spending.settle(self._name, part, attempt.id, bill.total(), bill.requests)

    def _reserve(self, part: int, attempt: Attempt, *, unasked: PartBatch | None) -> None:
        decision = self._reserved(part, attempt)
        if decision.granted:
            return
        if unasked is not None:
            unasked.forget()
        budget, currency = self._recipe.capture.budget, self._recipe.prices.currency
        held = f", {decision.held:.2f} are set aside for parts under way" if decision.held else ""
        raise UserError(
            f"spent {decision.spent:.2f} of {budget:.2f} {currency}{held}, and the next {self._section.model} part may"
            f" cost {decision.needed:.2f}; raise `capture.budget` to go on, or lower `capture.part_size`"
        )

    def _reserved(self, part: int, attempt: Attempt) -> Decision:
        """The account's decision. Parts under way cost less than their worst case: what they leave is waited for."""
        budget = self._recipe.capture.budget or 0.0
        unchanged_since, before = time.monotonic(), None
        while True:
            found = self._spending.reserve(self._name, part, attempt)
            hopeless = not found.held or found.spent + found.needed > budget
            if found.granted or hopeless or attempt.batch or time.monotonic() - unchanged_since > _LONGEST_WAIT_S:
                return found
            if found != before:
                unchanged_since, before = time.monotonic(), found
            time.sleep(_WAIT_S)

    async def _ask_all(self, questions: Sequence[Question], bill: _Bill) -> list[Answer]:
        tasks = [asyncio.create_task(self._ask(question, bill, i)) for i, question in enumerate(questions)]
        try:
            answers = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        self._check_use()
        return answers

    async def _ask(self, question: Question, bill: _Bill, number: int) -> Answer:
        while True:
            request = self._requests.of(question)
            try:
                reply = await self._endpoint.post(request.path, request.body, bill.sent[number])
            except Unsupported as error:
                if not self._requests.mend(error.parameter) or request.body == self._requests.of(question).body:
                    self._endpoint.give_up(UserError(str(error)))
            except Unanswered as error:
                self._unanswered += 1
                if self._unanswered >= GIVE_UP_AFTER:
                    why = f"{self._unanswered} questions in a row went without an answer: {error}"
                    self._endpoint.give_up(UserError(why))
                return Failure(str(error))
            except Refused as error:
                self._unanswered = 0
                return Failure(str(error))
            else:
                self._unanswered = 0
                bill.add(number, usage(reply))
                return self._read(request, reply)

    def _read(self, request: Request, reply: dict[str, Any]) -> Answer:
        try:
            found = self._replies.completions(request, reply)
        except NoLogprobs as error:
            self._useless += 1
            if not self._useful and self._useless >= GIVE_UP_AFTER:
                self._check_use()
            return Failure(str(error))
        except Refused as error:
            return Failure(str(error))
        self._useful = True
        return found

    def _check_use(self) -> None:
        """Raises `UserError` where no answer had logprobs: hard targets never stand in for them."""
        if self._useless and not self._useful:
            raise UserError(
                f"no answer of the endpoint {self._section.url} has logprobs that can be used, so there is no signal:"
                " set `capture.mode: text` (and `student.kd_weight: 0`) to train on its words alone"
            )

    async def _ask_batch(self, batch: PartBatch, bill: _Bill) -> list[Answer]:
        try:
            replies = await batch.replies(self._endpoint, len(bill.sent))
        except BatchLost:
            raise
        except BaseException:
            bill.open_all(batch.may_exist)
            raise
        bill.open_all(True)
        answers: list[Answer] = []
        for i, reply in enumerate(replies):
            if isinstance(reply, Refused):
                bill.sent[i].open = 0
                answers.append(Failure(str(reply)))
            else:
                bill.add(i, usage(reply))
                answers.append(self._read(bill.of[i], reply))
        self._check_use()
        return answers


class _Bill:
    """What the questions of a part cost; a request whose bill never came counts with its worst case."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.of = requests
        self.sent = [Sent() for _ in requests]
        self._known = BilledTokens()
        self.requests = 0

    def add(self, number: int, billed: BilledTokens | None) -> None:
        """A reply came, with its usage or without."""
        self.requests += 1
        if billed is not None:
            self.sent[number].open -= 1
            self._known += billed

    def open_all(self, sent: bool) -> None:
        """All requests were sent together, or none was."""
        for each in self.sent:
            each.open = int(sent)

    def total(self) -> BilledTokens:
        """All of it."""
        return sum((r.worst for r, sent in zip(self.of, self.sent, strict=True) for _ in range(sent.open)), self._known)
