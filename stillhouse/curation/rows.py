"""A captured completion as curation looks at it, and the reason why one is dropped."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow

from stillhouse import tuning
from stillhouse.confidence import SEQUENCE_PROBABILITY, Evidence
from stillhouse.errors import UserError
from stillhouse.recipe import Task
from stillhouse.recipe.curation import LookIn
from stillhouse.task import answer


class Drop(NamedTuple):
    """Why a completion is left out: `reason` is what the funnel counts, `detail` what was found."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One captured completion, without its signal.

    Attributes:
        id: of its record, which other rows share where the record has several completions.
        sample: its number among those of its record and teacher.
        fields: the prompt's columns.
        text: the same as one text, which duplicates are looked for in.
        completion: None for a record that failed.
        tokens: how many the completion has.
        finish_reason: `stop`, or `length` if it was cut off.
        error: why the record failed; None for the others.
        gold: the gold answer, if there is one.
        answer: the completion's answer; None if it breaks the task's contract.
        agreement: share of the record's completions that give its most frequent answer; of the votes, where an ensemble
            voted.
        token_logprobs: [tokens] float32, of the completion's tokens; None where the teacher told none.
        is_json: whether the completion is a JSON object.
    """

    id: str
    sample: int
    fields: dict[str, str]
    text: str
    completion: str | None
    tokens: int
    finish_reason: str | None
    error: str | None
    gold: str | None
    answer: str | None
    agreement: float
    token_logprobs: np.ndarray | None
    is_json: bool

    def confidence(self, *, per_token: bool = False) -> float | None:
        """Probability that the teacher gave to the completion, or its geometric mean per token; None where not told.

        Raises:
            UserError: what is stored are no logprobs.
        """
        told = self.token_logprobs
        # OpenAI does not tell how probable the end of the sequence was.
        if told is not None and len(told) and math.isnan(told[-1]):
            told = told[:-1]
        if told is None or not len(told):
            return None
        try:
            return SEQUENCE_PROBABILITY(Evidence.of([float(told.mean())] if per_token else told.tolist()))
        except ValueError as error:
            raise UserError(f"the capture of the record {self.id!r} is damaged: {error}") from error

    def values(self) -> list[str]:
        """The completion's texts: of a JSON object its strings and numbers, without what JSON escapes."""
        if not self.is_json or self.answer is None:
            return [self.completion or ""]
        return list(_leaves(json.loads(self.answer)))

    def texts(self, look_in: LookIn) -> list[str]:
        """What a filter is to look at."""
        prompt = [] if look_in == "completion" else [self.text]
        return prompt if look_in == "prompt" else [*prompt, "\n".join(self.values())]


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield str(value)


def rows_of(task: Task, table: pyarrow.Table) -> list[Row]:
    """The rows of a captured table, in its order."""
    columns = ("id", "sample", "fields", "completion", "finish_reason", "error", "gold", "agreement")
    found = table.select(columns).to_pylist()
    answers = [None if row["completion"] is None else answer(task, row["completion"]) for row in found]
    agreements = _agreements([row["id"] for row in found], answers)
    tokens = [0 if ids is None else len(ids) for ids in _lists(table["completion_token_ids"])]
    rows = []
    for row, given, length, logprobs in zip(found, answers, tokens, _lists(table["token_logprobs"]), strict=True):
        fields = json.loads(row["fields"])
        rows.append(
            Row(
                id=row["id"],
                sample=row["sample"] or 0,
                fields=fields,
                text=tuning.text_of(fields.values()),
                completion=row["completion"],
                tokens=length,
                finish_reason=row["finish_reason"],
                error=row["error"],
                gold=row["gold"],
                answer=given,
                agreement=agreements[row["id"]] if row["agreement"] is None else row["agreement"],
                token_logprobs=logprobs,
                is_json=task.kind == "json",
            )
        )
    return rows


def _agreements(ids: list[str], answers: list[str | None]) -> dict[str, float]:
    """By record; an answer that breaks the contract agrees with none, and counts all the same."""
    given: dict[str, list[str | None]] = defaultdict(list)
    for record, one in zip(ids, answers, strict=True):
        given[record].append(one)
    return {
        record: max(Counter(one for one in told if one is not None).values(), default=0) / len(told)
        for record, told in given.items()
    }


def _lists(column: pyarrow.ChunkedArray) -> Iterator[np.ndarray | None]:
    """A column of lists as views of its numbers."""
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=False)
        offsets, valid = chunk.offsets.to_numpy(), chunk.is_valid().to_numpy(zero_copy_only=False)
        for i, there in enumerate(valid):
            yield values[offsets[i] : offsets[i + 1]] if there else None
