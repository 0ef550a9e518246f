"""A teacher measured on a few answers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from stillhouse.check.estimate import estimate
from stillhouse.check.findings import Determinism, Mass, TeacherFound
from stillhouse.check.inputs import Inputs
from stillhouse.check.own_filter import require_verdicts
from stillhouse.data import Record
from stillhouse.errors import UserError
from stillhouse.metrics import proportion
from stillhouse.recipe import Recipe, Task
from stillhouse.signal.schema import Completion
from stillhouse.task import answer, render, token_ids
from stillhouse.teachers import section_of

Answered = Completion | str
"""One completion, or why there is none."""


@dataclass(frozen=True)
class Asked:
    """What asking one teacher gave.

    Attributes:
        name: which of the recipe's teachers.
        model, engine, dtype: as the teacher says of itself.
        records: the sample.
        answers: one a record of the sample, asked together.
        repeats: answers to one prompt of the sample, asked alone, and its answer among the others.
        seconds: that the sample took.
        ready: seconds until the teacher could answer.
        billed: prompt and completion tokens of all answers as an endpoint counted them; None where none counts.
    """

    name: str
    model: str
    engine: str
    dtype: str
    records: Sequence[Record]
    answers: Sequence[Answered]
    repeats: Sequence[Answered]
    seconds: float
    ready: float
    billed: tuple[int, int] | None = None


def measure(recipe: Recipe, inputs: Inputs, asked: Asked) -> TeacherFound:
    """What the answers tell of the teacher.

    Raises:
        UserError: it answered nothing, nothing that keeps the task's contract, prompts that the student reads
            otherwise, or what the user's own filter cannot judge.
    """
    found = [
        (record, given)
        for record, given in zip(asked.records, asked.answers, strict=True)
        if isinstance(given, Completion)
    ]
    errors = [given for given in asked.answers if isinstance(given, str)]
    if not found:
        raise UserError(f"the teacher {asked.model} answered none of {len(asked.records)} prompts: {errors[0]}")
    completions = [completion for _, completion in found]
    _require_prompts(recipe, inputs, found)
    graded = [answer(recipe.task, completion.text) for completion in completions]
    if not any(given is not None for given in graded):
        raise UserError(
            f"none of the {len(found)} answers of {asked.model} keeps the task's contract; the first is"
            f" {_short(completions[0].text)!r}: mend the prompt, the choices or the schema, or raise `task.max_tokens`"
        )
    require_verdicts(recipe, found)
    judged = [(record, given) for (record, _), given in zip(found, graded, strict=True) if record.gold is not None]
    section, estimates = section_of(recipe, asked.name), estimate(recipe, inputs, asked)
    return TeacherFound(
        name=asked.name,
        model=asked.model,
        engine=asked.engine,
        endpoint=section.url is not None,
        dtype=asked.dtype,
        records=inputs.by_teacher[asked.name],
        requests=len(asked.records) + max(0, len(asked.repeats) - 1),
        sampled=len(asked.records),
        failed=len(errors),
        failure=errors[0] if errors else None,
        truncated=sum(completion.finish_reason == "length" for completion in completions),
        contract=proportion(sum(given is not None for given in graded), len(graded)),
        right=proportion(sum(given == record.gold for record, given in judged), len(judged)) if judged else None,
        determinism=determinism(asked.repeats),
        mass=mass(completions) if recipe.capture.mode == "topk" else None,
        misread=sum(not reads_back(recipe.task, completion, inputs.tokenizer) for completion in completions),
        prompt=estimates.prompt,
        completion=estimates.completion,
        stored=statistics.fmean(len(completion.token_ids) for completion in completions),
        tokens=estimates.tokens,
        cost=estimates.cost,
        tokens_per_second=estimates.rate,
        time=estimates.time,
        engines=recipe.capture.engines.max,
        batch=section.batch,
        ready=asked.ready,
    )


def determinism(repeats: Sequence[Answered]) -> Determinism | None:
    """Whether answers to one and the same question are one and the same; None where one is missing."""
    given = [each for each in repeats if isinstance(each, Completion)]
    if len(given) < 2 or len(given) < len(repeats):
        return None
    first = given[0]
    same = all(each.token_ids == first.token_ids and each.text == first.text for each in given)
    differences = [_difference(one, other) for one, other in pairwise([*given, first])] if same else []
    known = [each for each in differences if each is not None]
    return Determinism(same=same, logprob_difference=max(known, default=None))


def mass(completions: Sequence[Completion]) -> Mass | None:
    """The mass that the kept entries hold, over all tokens of all completions that have any; None where none has."""
    signals = [completion.signal for completion in completions if completion.signal is not None]
    kept = [signal.mass[np.diff(signal.offsets) > 0] for signal in signals]
    held = np.concatenate(kept).astype(np.float64) if kept else np.zeros(0)
    if not held.size:
        return None
    return Mass(mean=float(held.mean()), p5=float(np.percentile(held, 5)))


def reads_back(task: Task, completion: Completion, tokenizer: Any) -> bool:
    """Whether the token ids decode to the completion's text.

    A text that a stop sequence ended, or whose last character was cut in two, lacks the end of what its ids say. A
    SentencePiece tokenizer drops a space at the start of what it decodes, so it is decoded after its prompt.
    """
    prompt, ids = list(completion.prompt_token_ids), list(completion.token_ids)

    def decoded(tokens: list[int]) -> str:
        text: str = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    whole, before = decoded(prompt + ids), decoded(prompt)
    for text in (decoded(ids), whole.removeprefix(before)):
        text = text.rstrip("\ufffd")
        if text == completion.text.rstrip("\ufffd") or (task.sampling.stop and text.startswith(completion.text)):
            return True
    return False


def _require_prompts(recipe: Recipe, inputs: Inputs, found: Sequence[tuple[Record, Completion]]) -> None:
    """The stored prompts must be what the student will be asked, token for token."""
    for record, completion in found:
        stored, own = completion.prompt_token_ids, token_ids(render(recipe.task, record.fields), inputs.tokenizer)
        if not stored or stored == own:
            continue
        place = next(
            (i for i, (a, b) in enumerate(zip(stored, own, strict=False)) if a != b), min(len(stored), len(own))
        )
        theirs, ours = (
            f"token {ids[place]} ({inputs.tokenizer.decode([ids[place]])!r})" if place < len(ids) else "nothing"
            for ids in (stored, own)
        )
        raise UserError(
            f"the prompt of record {record.id} has {theirs} at place {place} for the teacher and {ours} for the"
            " student: they have other chat templates or tokenizers; give `task.prompt` instead of `task.messages`, or"
            " the tokenizer that the teacher really has"
        )


def _difference(one: Completion, other: Completion) -> float | None:
    """The largest difference between logprobs of the same token at the same place, in nats."""
    found = []
    if one.token_logprobs and other.token_logprobs:
        told = np.abs(np.subtract(one.token_logprobs, other.token_logprobs))
        found += told[np.isfinite(told)].tolist()  # OpenAI does not tell of the end of the sequence
    if one.signal is not None and other.signal is not None:
        for token in range(min(len(one.signal), len(other.signal))):
            (ids, logprobs), (other_ids, other_logprobs) = one.signal.at(token), other.signal.at(token)
            _, here, there = np.intersect1d(ids, other_ids, return_indices=True)
            if here.size:
                found.append(float(np.abs(logprobs[here] - other_logprobs[there]).max()))
    return max(found, default=None)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
