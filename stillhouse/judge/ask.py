"""Ask the judge: every pair of answers in both orders, so that a liking for a place cancels out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence

import numpy as np

from stillhouse.endpoint.chat import CHAT, read_answer
from stillhouse.endpoint.client import Endpoint, Loop, Sent
from stillhouse.endpoint.errors import Refused, Unsupported
from stillhouse.errors import UserError
from stillhouse.judge.judgement import Judgement, Outcome, Preference, outcome, swayed, tally
from stillhouse.metrics import Prediction
from stillhouse.recipe import Judge

SECTION = "evaluation.judge"

_VERDICT = re.compile(r"(?:answer|verdict)?\W*(a|b|tie)\W*", re.IGNORECASE)


def judge(
    section: Judge, predictions: Sequence[Prediction], questions: Mapping[str, str], *, seed: int
) -> Judgement | None:
    """The judge's preference between student and teacher on up to `samples` test records; None where none has both.

    Args:
        questions: what was asked, by the record's id.

    Raises:
        UserError: the endpoint cannot be asked, or gave no verdict on any record.
    """
    both = [p for p in predictions if p.student is not None and p.teacher is not None]
    if not both:
        return None
    count = min(section.samples, len(both))
    chosen = [both[i] for i in np.sort(np.random.default_rng(seed).choice(len(both), count, replace=False))]
    asking = _Asking(section)
    found = Loop().run(asking.all([p for p in chosen if p.student != p.teacher], questions))
    same = sum(p.student == p.teacher for p in chosen)
    known = [pair for pair in found if isinstance(pair, tuple)]
    ties: list[Outcome] = ["tie"] * same
    outcomes = [*(outcome(*pair) for pair in known), *ties]
    if found and not known:
        raise UserError(
            f"the judge {section.model} at {section.url} gave no verdict on any of {len(found)} records:"
            f" {asking.sample}"
        )
    return tally(
        f"{section.model} at {section.url}",
        outcomes,
        same=same,
        swayed=sum(swayed(*pair) for pair in known),
        unparsable=found.count("unparsable"),
        unanswered=found.count("unanswered"),
        seed=seed,
    )


def preference(reply: str) -> Preference | None:
    """The verdict in a reply's last line: A, B or tie; None where it is no verdict."""
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    found = _VERDICT.fullmatch(re.sub(r"[*_`\"'\[\](){}]", "", lines[-1])) if lines else None
    if found is None:
        return None
    verdicts: dict[str, Preference] = {"a": "first", "b": "second", "tie": "tie"}
    return verdicts[found[1].lower()]


class _Asking:
    def __init__(self, section: Judge) -> None:
        self._section = section
        self._endpoint = Endpoint(section, section.url, section=SECTION)
        self._drawn = {"temperature": 0.0}
        self.sample = ""

    async def all(
        self, predictions: Sequence[Prediction], questions: Mapping[str, str]
    ) -> list[tuple[Preference, Preference] | str]:
        """The preferences of each record, or why there are none."""
        tasks = [asyncio.create_task(self._record(p, questions[p.id])) for p in predictions]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _record(self, record: Prediction, question: str) -> tuple[Preference, Preference] | str:
        student, teacher = record.student or "", record.teacher or ""
        try:
            replies = [await self._reply(question, *pair) for pair in ((student, teacher), (teacher, student))]
        except Refused as error:
            self.sample = self.sample or str(error)
            return "unanswered"
        first, second = map(preference, replies)
        if first is None or second is None:
            self.sample = (
                self.sample or f"{self._endpoint.quoted(replies[0 if first is None else 1])!r} is not A, B or tie"
            )
            return "unparsable"
        return first, second

    async def _reply(self, question: str, first: str, second: str) -> str:
        content = self._section.filled(question=question, first=first, second=second)
        messages = [{"role": "user", "content": content}]
        while True:
            drawn = dict(self._drawn)
            body = {"model": self._section.model, "messages": messages, **drawn}
            try:
                return read_answer(await self._endpoint.post(CHAT, body, Sent())).text
            except Unsupported as error:
                # Models that reason take no temperature.
                if error.parameter not in drawn:
                    raise
                self._drawn.pop(error.parameter, None)
