"""How fast the student answers: seconds of single requests, and tokens of a batch, as they were measured; and the
tokens of the teacher's batch, the capture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from stillhouse.report.part import Part
from stillhouse.timed import Timed

ONE_BY_ONE = 50
"""Test prompts that are asked one at a time."""


class Speed(Part):
    """The student's engine or endpoint, without the gateway's own time, and the teacher's as it was captured."""

    where: str = Field(description="What it ran on, or where it was asked.")
    requests: int = Field(gt=0, description="Requests that were timed.")
    at_once: int = Field(ge=1, description="Most of them under way at once.")
    p50_s: float = Field(ge=0, description="Median seconds of such a request.")
    p95_s: float = Field(ge=0, description="Seconds that 95% of them do not exceed.")
    tokens_per_s: float | None = Field(
        description="Tokens written a second while one request was under way; None where that was not so."
    )
    batch_tokens_per_s: float | None = Field(
        description="Tokens written a second by the batch of all records; None where it was not timed."
    )
    batch_records_per_s: float | None = Field(description="Records answered a second by that batch; None likewise.")
    teacher_tokens: int | None = Field(
        default=None, ge=0, description="Tokens that the teacher wrote in the capture's last start; None: not counted."
    )
    teacher_tokens_per_s: float | None = Field(
        default=None, description="How many of them a second, as captured in batch; None where it was not measured."
    )


def speed(
    where: str, requests: Sequence[Timed], *, at_once: int, batch: Timed | None = None, records: int = 0
) -> Speed | None:
    """The numbers; None where no request was timed.

    Args:
        at_once: most of the requests under way at once.
        batch: all records asked together, without the start of the engine.
        records: how many those were.
    """
    if not requests:
        return None
    seconds = np.array([one.seconds for one in requests])
    tokens = sum(one.tokens for one in requests)
    timed = batch if batch is not None and batch.seconds > 0 else None
    return Speed(
        where=where,
        requests=len(requests),
        at_once=at_once,
        p50_s=float(np.quantile(seconds, 0.5)),
        p95_s=float(np.quantile(seconds, 0.95)),
        tokens_per_s=Timed(float(seconds.sum()), tokens).tokens_per_s if at_once == 1 else None,
        batch_tokens_per_s=timed.tokens / timed.seconds if timed else None,
        batch_records_per_s=records / timed.seconds if timed else None,
    )


def beside_teacher(found: Speed | None, captured: Timed | None) -> Speed | None:
    """The same beside the teacher's speed in the capture's last start, if that was measured."""
    if found is None or captured is None:
        return found
    return found.model_copy(update={"teacher_tokens": captured.tokens, "teacher_tokens_per_s": captured.tokens_per_s})
