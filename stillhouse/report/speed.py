"""How fast the student answers: seconds of single requests, and tokens of a batch, as they were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from stillhouse.report.part import Part

ONE_BY_ONE = 50
"""Test prompts that are asked one at a time."""


class Speed(Part):
    """The student's engine or endpoint, without the gateway's own time."""

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


@dataclass(frozen=True)
class Timed:
    """One request or batch: how long it took, in seconds, and how many tokens were written."""

    seconds: float
    tokens: int = 0


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
        tokens_per_s=tokens / float(seconds.sum()) if at_once == 1 and tokens and seconds.sum() > 0 else None,
        batch_tokens_per_s=timed.tokens / timed.seconds if timed else None,
        batch_records_per_s=records / timed.seconds if timed else None,
    )
